"""Loads the native libraries, or says what was built, what was found and what to do.

`_C` (operators for CPU tensors, and the pybind11 module) is loaded when this module is imported;
`_C_cuda` after it, if torch is a CUDA build. Without `_C`, or without `_C_cuda` where torch sees a
GPU, a warning is given, once, and the operators run in plain PyTorch; with
S2T_EXT_REQUIRE_NATIVE=1 it is an ImportError.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import struct
import sys
import warnings
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from s2t_ext._version import __version__

REQUIRE = "S2T_EXT_REQUIRE_NATIVE"
OPERATORS = (
    "propose_candidates",
    "score_candidates",
    "select_token",
    "score_and_select",
    "sample_token",
    "commit_candidates",
    "copy_blocks",
    "support_kl",
    "random_uniform",
)
PACKAGE = Path(__file__).resolve().parent.parent


def _libraries(folder: Path) -> list[Path]:
    """The `_C` of this Python, if it is there."""
    paths = [folder / f"_C{suffix}" for suffix in EXTENSION_SUFFIXES]
    return [path for path in paths if path.is_file()][:1]


def _library_folder() -> Path:
    """Where the libraries are: beside this file or, for a source folder, in the installed copy.

    After `pip install .`, a Python started in the checkout imports the checkout's package, which
    has no library. The installed one's is used then; that it is of another version is noticed.
    """
    if _libraries(PACKAGE) or not (PACKAGE.parent / "setup.py").is_file():
        return PACKAGE
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != PACKAGE.parent]
    spec = PathFinder.find_spec("s2t_ext", elsewhere)
    installed = Path(spec.origin).parent if spec and spec.origin else PACKAGE
    return installed if _libraries(installed) else PACKAGE


FOLDER = _library_folder()


class NativeLibraryWarning(RuntimeWarning):
    """A native library could not be loaded and plain PyTorch does its work."""


class _Unusable(Exception):
    """Why a library is not used, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@dataclass
class _State:
    module: ModuleType | None = None
    error: str | None = None
    cuda_path: Path | None = None
    cuda_error: str | None = None


_state = _State()


def is_loaded() -> bool:
    """True if the operators are native for CPU tensors."""
    return _state.module is not None


def load_error() -> str | None:
    """Why they are not: the whole message; None if they are."""
    return _state.error


def cuda_is_loaded() -> bool:
    """True if the operators are native for CUDA tensors."""
    return _state.cuda_path is not None


def cuda_load_error() -> str | None:
    """Why they are not; None if they are."""
    return _state.cuda_error


def native() -> ModuleType:
    """The module `_C`.

    Raises:
        ImportError: it could not be loaded; the text is `load_error()`.
    """
    if _state.module is None:
        raise ImportError(_state.error)
    return _state.module


def build_info() -> dict[str, Any] | None:
    """What was built, as told by `_C` or, if it cannot be loaded, by the file beside it."""
    if _state.module is not None:
        built: dict[str, Any] = _state.module.build_info()
        return built
    return _recorded_build()


# ---- _C ------------------------------------------------------------------------------------------

_REBUILD = (
    "install s2t_ext again for this Python and this torch: `pip install --force-reinstall "
    "--no-deps .` in its source folder (or `python setup.py build_ext --inplace` to work in it)"
)


def _load() -> None:
    try:
        _state.module = _import_module()
    except _Unusable as error:
        _state.error = _explain(str(error), error.remedy)
        _state.cuda_error = "the library _C, which declares the operators, is not loaded"
        _give_up(_state.error)
        return
    try:
        _state.cuda_path = _load_cuda()
    except _Unusable as error:
        _state.cuda_error = str(error)


def _import_module() -> ModuleType:
    _check_torch()
    present = _libraries(FOLDER)
    if not present:
        raise _missing()
    if _is_truncated(present[0]):
        raise _Unusable(f"{present[0]} is incomplete", _REBUILD)
    try:
        module = _import_file("s2t_ext._C", present[0])
    except Exception as error:  # whatever it is, it must not take the user's program with it
        raise _Unusable(f"loading it failed: {type(error).__name__}: {error}", _REBUILD) from error
    version = module.build_info()["version"]
    if version != __version__:
        reason = f"it was built for s2t_ext {version}, and this is s2t_ext {__version__}"
        raise _Unusable(reason, _REBUILD)
    absent = [name for name in OPERATORS if not hasattr(torch.ops.s2t_ext, name)]
    if absent:
        reason = f"it lacks {', '.join(absent)}: it was built from other sources than these"
        raise _Unusable(reason, _REBUILD)
    return module


def _import_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # by the suffix of the path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def _check_torch() -> None:
    built = _recorded_build()
    minimum = (built or {}).get("torch_target", "2.10")
    if _version_pair(torch.__version__) < _version_pair(minimum):
        reason = f"it needs torch >= {minimum}, and this is torch {torch.__version__}"
        raise _Unusable(reason, f"`pip install 'torch>={minimum}'`")


def _missing() -> _Unusable:
    others = sorted(path.name for path in PACKAGE.glob("_C.*.so"))
    if others:
        reason = (
            f"it was built for another Python: there is {', '.join(others)}, this Python loads "
        )
        return _Unusable(reason + f"_C{EXTENSION_SUFFIXES[0]}", _REBUILD)
    if (PACKAGE.parent / "setup.py").is_file():
        return _Unusable(
            f"{PACKAGE} is a source folder in which nothing was built, and no s2t_ext with a "
            "library is installed",
            f"run `pip install -e .` in {PACKAGE.parent}",
        )
    return _Unusable("the installation has no library for this Python", _REBUILD)


def _explain(reason: str, remedy: str) -> str:
    return (
        f"s2t_ext: the native library _C is not in use, because {reason}.\n"
        f"  built: {_describe_build(_recorded_build())}\n"
        f"  found: Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}, s2t_ext {__version__} in {PACKAGE}\n"
        f"  to do: {remedy}"
    )


def _describe_build(built: dict[str, Any] | None) -> str:
    if built is None:
        return "nothing (no record of a build beside the package)"
    return (
        f"s2t_ext {built.get('version')} for Python {built.get('python')} and torch >= "
        f"{built.get('torch_target')} (with {built.get('torch')}), {built.get('system')}, "
        f"{built.get('compiler')}"
    )


def _give_up(message: str) -> None:
    if os.environ.get(REQUIRE) == "1":
        raise ImportError(f"{message}\n  ({REQUIRE}=1 makes this an error.)")
    fallback = "Until then operators run in plain PyTorch: the same results, slower."
    warnings.warn(f"{message}\n  {fallback}", NativeLibraryWarning, stacklevel=2)


# ---- _C_cuda -------------------------------------------------------------------------------------


def _load_cuda() -> Path:
    if torch.version.cuda is None:
        raise _Unusable(f"torch {torch.__version__} is a CPU build", "")
    path = FOLDER / "_C_cuda.so"
    if not path.is_file():
        reason = f"_C_cuda was not built: {(build_info() or {}).get('cuda_reason', 'unknown')}"
        if torch.cuda.device_count() > 0:  # without a GPU there is nothing it would be used for
            _give_up(_explain_cuda(reason, f"with the CUDA toolkit at hand, {_REBUILD}"))
        raise _Unusable(reason, "")
    try:
        if _is_truncated(path):
            raise OSError(f"{path} is incomplete")
        torch.ops.load_library(path)
    except Exception as error:
        reason = f"loading it failed: {type(error).__name__}: {error}"
        message = _explain_cuda(reason, _REBUILD)
        _give_up(message)
        raise _Unusable(message, _REBUILD) from error
    return path


def _explain_cuda(reason: str, remedy: str) -> str:
    built = build_info() or {}
    return (
        f"s2t_ext: the native library _C_cuda is not in use, because {reason}.\n"
        f"  built: with CUDA {built.get('cuda') or '(none)'} and torch {built.get('torch')}\n"
        f"  found: torch {torch.__version__} (CUDA {torch.version.cuda})\n"
        f"  to do: {remedy}"
    )


# ---- helpers -------------------------------------------------------------------------------------


def _is_truncated(library: Path) -> bool:
    # The loader maps what the file's header promises: a file that was cut short, say by a full
    # disk, ends the process by a bus error, not an exception. The section table comes last.
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return False  # not ours to judge: the loader says what it is
    (start,) = struct.unpack_from("<Q", header, 0x28)
    size, count = struct.unpack_from("<HH", header, 0x3A)
    end: int = start + size * count
    return library.stat().st_size < end


def _recorded_build() -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((FOLDER / "_build_info.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record


def _version_pair(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


_load()
