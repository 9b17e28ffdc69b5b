"""Builds `_simt`, the CUDA kernels on a CPU (csrc/simt/README.md), once per state of its sources.

The library ends up in build/simt/, keyed by what it was made from, so that only the first test
session after a change compiles. By hand: python python_tests/simt_library.py prints the path.
"""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CACHE = Path(os.environ.get("S2T_EXT_SIMT_CACHE", ROOT / "build" / "simt"))

COMMON = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
RUNTIME = ["-O2", "-g"]
# -fsanitize=thread when compiling only: its callbacks are the emulator's own.
KERNEL = [
    *["-x", "c++", "-O1", "-gdwarf-4", "-fno-strict-aliasing"],
    *["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"],
    *["--param", "tsan-distinguish-volatile=1"],
]
TORCH = Path(torch.__file__).parent
BINDING = [
    *["-O1", "-DS2T_DEVICE_CALL", "-DTORCH_TARGET_VERSION=0x020a000000000000"],
    *["-isystem", str(TORCH / "include")],
    *["-isystem", str(TORCH / "include" / "torch" / "csrc" / "api" / "include")],
]


def why_not() -> str | None:
    """Why this machine cannot build it; None if it can."""
    for tool in ("g++", "addr2line"):
        if shutil.which(tool) is None:
            return f"the emulator is built with g++ and names lines by addr2line; {tool} is missing"
    return None if CSRC.exists() else "the emulator needs the source tree"


def _flags(source: Path) -> list[str]:
    if source.suffix == ".cu":
        return [*COMMON, *KERNEL]
    return [*COMMON, *(RUNTIME if source.parent == CSRC / "simt" else BINDING)]


def sources(root: Path = CSRC) -> list[Path]:
    """The emulator, the kernels, and the operators' bindings over calls on an emulated device."""
    of_the_cpu = ("library.cpp", "module.cpp")
    bindings = [p for p in (root / "bindings").glob("*.cpp") if p.name not in of_the_cpu]
    return [
        *sorted((root / "simt").glob("*.cpp")),
        *sorted((root / "cuda").glob("*.cu")),
        *sorted(bindings),
        root / "bindings" / "simt" / "library.cpp",
    ]


def _state() -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    digest.update(Path(__file__).read_bytes())
    rooms = ("core", "cuda", "simt", "bindings")
    for path in sorted(p for room in rooms for p in (CSRC / room).rglob("*.*")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def compile_object(source: Path, target: Path, include: Path = CSRC) -> Path:
    # The emulator's <cuda_runtime.h> in place of CUDA's, and its "device.h" for the bindings.
    folders = [include / "simt" / "as_cuda", CSRC / "bindings" / "simt", include]
    includes = [f"-I{folder}" for folder in folders]
    command = ["g++", *_flags(source), *includes, "-c", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return target


def link(objects: list[Path], target: Path) -> Path:
    torch_cpu = TORCH / "lib" / "libtorch_cpu.so"
    partial = target.with_suffix(f".{os.getpid()}")  # appears whole, also with pytest-xdist
    command = ["g++", "-shared", *map(str, objects), str(torch_cpu), "-ldl", "-o", str(partial)]
    subprocess.run(command, check=True)
    partial.replace(target)
    return target


def build() -> Path:
    """Path of the library; its objects lie beside it."""
    folder = CACHE / _state()
    library = folder / "_simt.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(
            pool.map(lambda source: compile_object(source, folder / f"{source.name}.o"), sources())
        )
    return link(objects, library)


if __name__ == "__main__":
    print(build())
