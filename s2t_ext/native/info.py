"""What is installed here: versions, the native libraries, instruction sets, CUDA."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2t_ext._version import __version__
from s2t_ext.native import cpu_isa
from s2t_ext.native import library as _library

# Those whose versions matter in a report of a fault.
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True)
class NativeInfo:
    """The library `_C`."""

    loaded: bool
    error: str | None  # why not
    path: str | None
    build: dict[str, Any] | None  # compiler, flags, torch, ...; None: no record of a build


@dataclass(frozen=True)
class CpuInfo:
    """Instruction sets by name, weakest first."""

    compiled: tuple[str, ...]  # kernels that are in the library
    available: tuple[str, ...]  # of those, what this processor runs; empty without `_C`
    used: str | None  # None without `_C`; the error if S2T_EXT_FORCE_CPU_ISA is wrong
    threads: int  # torch's intra-op threads, which the kernels use


@dataclass(frozen=True)
class CudaInfo:
    """torch's CUDA and the library `_C_cuda`."""

    torch_cuda: str | None  # CUDA version of the torch build; None: a CPU build
    devices: tuple[str, ...]
    loaded: bool
    error: str | None  # why `_C_cuda` is not loaded
    built_with: str | None  # CUDA toolkit of `_C_cuda`; None: not built
    archs: tuple[str, ...]  # in `_C_cuda`, e.g. "8.0", "9.0", "12.0+PTX"


@dataclass(frozen=True)
class Info:
    """Everything `python -m s2t_ext info` prints."""

    version: str
    location: str
    python: str
    system: str
    packages: dict[str, str | None]  # None: not installed
    native: NativeInfo
    cpu: CpuInfo
    cuda: CudaInfo

    def as_dict(self) -> dict[str, Any]:
        """The same as nested dicts, for JSON."""
        return asdict(self)


def info() -> Info:
    """Returns what is installed, built, found and used. Never fails for what is missing."""
    build = _library.build_info()
    return Info(
        version=__version__,
        location=str(_library.PACKAGE),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in _PACKAGES},
        native=_native(build),
        cpu=_cpu(build or {}),
        cuda=_cuda(build or {}),
    )


def _native(build: dict[str, Any] | None) -> NativeInfo:
    path = _library.native().__file__ if _library.is_loaded() else None
    return NativeInfo(_library.is_loaded(), _library.load_error(), path, build)


def _cpu(build: dict[str, Any]) -> CpuInfo:
    return CpuInfo(
        compiled=tuple(build.get("cpu_isas", ())),
        available=cpu_isa.available(),
        used=_used_isa(),
        threads=torch.get_num_threads(),
    )


def _used_isa() -> str | None:
    try:
        return cpu_isa.current()
    except RuntimeError as error:  # a wrong S2T_EXT_FORCE_CPU_ISA; the operators will say the same
        return str(error)


def _cuda(build: dict[str, Any]) -> CudaInfo:
    # Without a CUDA build of torch, asking for devices can only print warnings.
    count = torch.cuda.device_count() if torch.version.cuda else 0
    return CudaInfo(
        torch_cuda=torch.version.cuda,
        devices=tuple(torch.cuda.get_device_name(index) for index in range(count)),
        loaded=_library.cuda_is_loaded(),
        error=_library.cuda_load_error(),
        built_with=build.get("cuda") or None,
        archs=tuple(build.get("cuda_archs", ())),
    )


def _version(package: str) -> str | None:
    if package == "torch":
        return torch.__version__  # its metadata may lack the build's suffix, e.g. +cpu
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
