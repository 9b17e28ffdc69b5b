"""Drives CMake for `pip install`; metadata: pyproject.toml; sources and flags: CMakeLists.txt.

Why CMake and not torch's cpp_extension: one source is compiled for several instruction sets, each
with its own flags, which setuptools' Extension cannot say; and cpp_extension imports torch, which
build isolation hides. Why no find_package(Torch): the stable ABI needs torch's headers and two
library names, while torch's CMake files insist on the CUDA toolkit torch was built with.

Environment: S2T_EXT_CUDA=auto|0|1, S2T_EXT_TORCH_PATH, TORCH_CUDA_ARCH_LIST, MAX_JOBS, CMAKE_ARGS,
and what CMake itself reads (CC, CXX, CXXFLAGS, ...).
"""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "_build"))  # also without the backend: python setup.py ...
import find_torch  # noqa: E402

MINIMUM_CMAKE = (3, 24)
# One translation unit with torch's or pybind11's headers takes up to about 1.5 GB in the compiler.
GIGABYTES_PER_JOB = 2


class CleanBuildPy(build_py):
    """Starts from an empty build/lib: setuptools leaves there what an earlier build put."""

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Builds all native libraries with one CMake run and installs them beside the package."""

    def run(self):
        torch = locate_torch()
        print(f"s2t_ext build: against {torch}", flush=True)
        ninja = find_program("ninja")
        cmake, version = find_cmake()
        definitions = cmake_definitions(torch)
        # One folder per configuration: a second build with the same one is incremental, and one
        # with another torch, other flags or a sanitizer does not inherit CMake's cache.
        name = configuration_name(torch, [f"cmake {version}", *definitions])
        folder = ROOT / "build" / f"cmake-{name}"
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        run([cmake, "-S", ROOT, "-B", folder, *generator, *definitions])
        run([cmake, "--build", folder, "--parallel", str(parallel_jobs())])
        target = ROOT / "s2t_ext" if self.inplace else Path(self.build_lib).resolve() / "s2t_ext"
        # A library of an earlier build (say, with CUDA) must not stay beside this one, and one that
        # a running process has mapped must not be written over.
        for stale in target.glob("_C*.so"):
            stale.unlink()
        run([cmake, "--install", folder, "--prefix", target, "--component", "s2t_ext"])


def locate_torch():
    try:
        return find_torch.locate()
    except (find_torch.TorchNotFound, find_torch.WrongTorchPath) as error:
        fail(error)


def cmake_definitions(torch):
    """Our options, all of them, so that none lingers in CMake's cache; the user's come last."""
    pybind11 = importlib.util.find_spec("pybind11")
    if pybind11 is None or pybind11.origin is None:
        fail(
            "pybind11 is not installed here; without build isolation, first run "
            "`pip install setuptools pybind11 cmake ninja`."
        )
    return [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DS2T_PYBIND11_INCLUDE={Path(pybind11.origin).parent / 'include'}",
        f"-DS2T_TORCH_ROOT={torch.root}",
        f"-DS2T_CUDA={cuda_choice()}",
        f"-DS2T_CUDA_ARCH_LIST={os.environ.get('TORCH_CUDA_ARCH_LIST', '').replace(';', ' ')}",
        *shlex.split(os.environ.get("CMAKE_ARGS", "")),
    ]


def cuda_choice():
    # FORCE_CUDA=1 is what users of other torch extensions know. Never decided by a visible GPU:
    # images are built on machines without one.
    forced = "1" if os.environ.get("FORCE_CUDA") == "1" else "auto"
    choice = os.environ.get("S2T_EXT_CUDA") or forced
    if choice not in ("auto", "0", "1"):
        fail(f"S2T_EXT_CUDA must be auto, 0 or 1, got {choice}")
    return choice


def configuration_name(torch, definitions):
    """A readable part, and a hash of all that changes the result."""
    # In an isolated build pybind11 lies in a new temporary folder every time; that is no new build.
    said = [item for item in definitions if not item.startswith("-DS2T_PYBIND11_INCLUDE=")]
    compilers = ("CC", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH")
    flags = ("CFLAGS", "CXXFLAGS", "CUDAFLAGS", "LDFLAGS")
    said += [f"{name}={os.environ.get(name, '')}" for name in (*compilers, *flags)]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]
    return f"{sys.implementation.cache_tag}-torch{torch.version.replace('+', '-')}-{digest}"


def parallel_jobs():
    """MAX_JOBS, or as many as there are cores and memory for."""
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(cores, int(gigabytes / GIGABYTES_PER_JOB)))


def find_cmake():
    cmake = find_program("cmake")
    said = subprocess.check_output([cmake, "--version"], text=True)
    version = re.search(r"version (\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < MINIMUM_CMAKE:
        needed = ".".join(map(str, MINIMUM_CMAKE))
        fail(f"CMake >= {needed} is needed and {cmake} is older; `pip install cmake`.")
    return cmake, version[0]


def find_program(name):
    # An environment that is used without being activated is not on PATH.
    folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    return shutil.which(name, path=os.pathsep.join(folders)) or fail(
        f"{name} was not found; `pip install {name}`."
    )


def run(command):
    command = [str(part) for part in command]
    print("s2t_ext build:", shlex.join(command), flush=True)
    if subprocess.run(command).returncode:
        fail(
            f"`{shlex.join(command[:3])} ...` failed; its messages are above "
            "(if pip hides them, run it again with -v)."
        )


def fail(message):
    raise SystemExit(f"s2t_ext build: {message}")


setup(
    # Only says that the wheel is not pure Python; CMake has the sources.
    ext_modules=[Extension("s2t_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": CleanBuildPy},
)
