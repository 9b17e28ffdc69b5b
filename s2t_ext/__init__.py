"""Select-to-Think decoding: a small language model re-ranks its own candidates.

Public names are loaded when first used, so `import s2t_ext` does not import transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Loads the native operators (torch.ops.s2t_ext.*), or warns that they are missing.
from s2t_ext import _library as _library
from s2t_ext._version import __version__
from s2t_ext.info import info

if TYPE_CHECKING:
    from s2t_ext import ops, reference
    from s2t_ext.calibration import calibrate
    from s2t_ext.config import S2TConfig
    from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput, StepEvent
    from s2t_ext.distillation.collect import collect
    from s2t_ext.distillation.collection import Collection, Prompt
    from s2t_ext.distillation.losses import LossConfig
    from s2t_ext.distillation.options import DistillConfig
    from s2t_ext.distillation.train import distill
    from s2t_ext.evaluation.evaluate import evaluate
    from s2t_ext.generation import decoding_method, generate, patch, unpatch
    from s2t_ext.selector import Calibration, Selector, TriggerHead
    from s2t_ext.sufficiency import measure_sufficiency
    from s2t_ext.teacher import Teacher

_LAZY_MODULES = ("ops", "reference")
_LAZY_NAMES = {
    "Calibration": "selector",
    "Collection": "distillation.collection",
    "DecodingRecord": "decoding.record",
    "DistillConfig": "distillation.options",
    "LossConfig": "distillation.losses",
    "Prompt": "distillation.collection",
    "S2TConfig": "config",
    "S2TGenerateOutput": "decoding.record",
    "Selector": "selector",
    "StepEvent": "decoding.record",
    "Teacher": "teacher",
    "TriggerHead": "selector",
    "calibrate": "calibration",
    "collect": "distillation.collect",
    "distill": "distillation.train",
    "decoding_method": "generation",
    "evaluate": "evaluation.evaluate",
    "generate": "generation",
    "measure_sufficiency": "sufficiency",
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
        return importlib.import_module(f"s2t_ext.{name}")
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(f"s2t_ext.{_LAZY_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 's2t_ext' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
