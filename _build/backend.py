"""PEP 517 backend: setuptools', plus "use the torch that is already there".

A plain `requires = ["torch"]` would make pip download a second torch of several GB into its
isolated build environment; none at all would fail there with "No module named 'torch'". So torch is
required only when find_torch sees none. Everything else is setuptools.build_meta.
"""

from __future__ import annotations

import sys
from typing import Any

import find_torch
from setuptools import build_meta as _setuptools
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _setuptools.get_requires_for_build_wheel(config_settings) + torch_requirement()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _setuptools.get_requires_for_build_editable(config_settings) + torch_requirement()


def torch_requirement() -> list[str]:
    """[] if an installed torch can be built against, else the requirement of one."""
    try:
        _log(f"will use {find_torch.locate()}")
        return []
    except find_torch.TorchNotFound as error:
        requirement = f"torch>={find_torch.MINIMUM[0]}.{find_torch.MINIMUM[1]}"
        _log(f"{error}\nThe installer is asked for {requirement}.")
        return [requirement]


def _log(message: str) -> None:
    # Shown by `pip install -v` and `python -m build`.
    print(f"s2t_ext build: {message}", file=sys.stderr, flush=True)
