"""Select-to-Think decoding: a small language model re-ranks its own candidates."""

import importlib
from typing import Any

# Loads the native operators (torch.ops.s2t_ext.*), or warns that they are missing.
from s2t_ext import _library as _library
from s2t_ext._version import __version__
from s2t_ext.info import info

_LAZY_MODULES = ("ops", "reference")

__all__ = ["__version__", "info", "ops", "reference"]


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"s2t_ext.{name}")
    raise AttributeError(f"module 's2t_ext' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
