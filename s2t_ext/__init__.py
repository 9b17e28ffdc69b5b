"""Select-to-Think decoding: a small language model re-ranks its own candidates.

Public names are loaded when first used, so `import s2t_ext` does not import transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

from s2t_ext._version import __version__

# Loads the native operators (torch.ops.s2t_ext.*), or warns that they are missing.
from s2t_ext.native import library as _library  # noqa: F401
from s2t_ext.native.info import info

if TYPE_CHECKING:
    from s2t_ext import ops, reference
    from s2t_ext.analysis.calibration import calibrate
    from s2t_ext.analysis.sufficiency import measure_sufficiency
    from s2t_ext.config import S2TConfig
    from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput, StepEvent
    from s2t_ext.distillation.data.collect import collect
    from s2t_ext.distillation.data.collection import Collection
    from s2t_ext.distillation.losses import LossConfig
    from s2t_ext.distillation.options import DistillConfig
    from s2t_ext.distillation.train import distill
    from s2t_ext.evaluation.evaluate import evaluate
    from s2t_ext.generation import decoding_method, generate, patch, unpatch
    from s2t_ext.runs.prompts import Prompt
    from s2t_ext.selectors.parts import Calibration, TriggerHead
    from s2t_ext.selectors.selector import Selector
    from s2t_ext.teachers.base import Teacher

_LAZY_MODULES = {"cpu_isa": "native.cpu_isa", "ops": "ops", "reference": "reference"}
_LAZY_NAMES = {
    "Calibration": "selectors.parts",
    "Collection": "distillation.data.collection",
    "DecodingRecord": "decoding.record",
    "DistillConfig": "distillation.options",
    "LossConfig": "distillation.losses",
    "Prompt": "runs.prompts",
    "S2TConfig": "config",
    "S2TGenerateOutput": "decoding.record",
    "Selector": "selectors.selector",
    "StepEvent": "decoding.record",
    "Teacher": "teachers",
    "TriggerHead": "selectors.parts",
    "calibrate": "analysis.calibration",
    "collect": "distillation.data.collect",
    "distill": "distillation.train",
    "decoding_method": "generation",
    "evaluate": "evaluation.evaluate",
    "generate": "generation",
    "measure_sufficiency": "analysis.sufficiency",
    "patch": "generation",
    "unpatch": "generation",
}

__all__ = [
    "Calibration",
    "Collection",
    "DecodingRecord",
    "DistillConfig",
    "LossConfig",
    "Prompt",
    "S2TConfig",
    "S2TGenerateOutput",
    "Selector",
    "StepEvent",
    "Teacher",
    "TriggerHead",
    "__version__",
    "calibrate",
    "collect",
    "decoding_method",
    "distill",
    "evaluate",
    "generate",
    "info",
    "measure_sufficiency",
    "ops",
    "patch",
    "reference",
    "unpatch",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"s2t_ext.{_LAZY_MODULES[name]}")
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(f"s2t_ext.{_LAZY_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 's2t_ext' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
