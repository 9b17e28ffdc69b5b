"""Loading the native library: that it is in use, and what is said when it cannot be."""

import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from s2t_ext.native import cpu_isa
from s2t_ext.native import library as _library

LIBRARY = f"_C{EXTENSION_SUFFIXES[0]}"


def test_the_native_library_is_in_use():
    assert _library.is_loaded(), _library.load_error()
    assert _library.load_error() is None
    for name in _library.OPERATORS:
        assert hasattr(torch.ops.s2t_ext, name)


def test_build_info_is_the_same_inside_and_beside_the_library():
    record = json.loads((_library.FOLDER / "_build_info.json").read_text("utf-8"))
    assert _library.build_info() == record
    assert record["torch_target"] == "2.10"
    assert "-ffp-contract=off" in record["flags"]
    assert "scalar" in record["cpu_isas"]


# ---- a copy of the package, damaged --------------------------------------------------------------


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package and its libraries to damage; `run` imports it."""
    return copy_package(tmp_path / "s2t_ext")


def copy_package(copy: Path) -> Path:
    for folder in (_library.PACKAGE, _library.FOLDER):  # often one and the same
        shutil.copytree(
            folder, copy, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
    return copy


def run(package: Path, code: str, *path: Path, **environ: str) -> subprocess.CompletedProcess:
    search = os.pathsep.join(map(str, (package.parent, *path)))
    environment = os.environ | {"PYTHONPATH": search} | environ
    environment.pop("PYTHONWARNINGS", None)
    if "S2T_EXT_REQUIRE_NATIVE" not in environ:
        environment.pop("S2T_EXT_REQUIRE_NATIVE", None)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=package.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


# What a program sees: the warning, then the state, then an operator that works all the same.
FALLBACK = """
import s2t_ext, torch
from s2t_ext import ops, reference
from s2t_ext.native import library as _library
assert not _library.is_loaded()
logits = torch.randn(2, 100)
for mine, plain in zip(ops.propose_candidates(logits, 8), reference.propose_candidates(logits, 8)):
    assert torch.equal(mine, plain)
print(_library.load_error())
"""


def remove_library(package: Path) -> None:
    (package / LIBRARY).unlink()


def remove_every_trace(package: Path) -> None:
    remove_library(package)
    (package / "_build_info.json").unlink()


def leave_another_pythons(package: Path) -> None:
    (package / LIBRARY).rename(package / "_C.cpython-39-x86_64-linux-gnu.so")


def put_into_a_source_folder(package: Path) -> None:
    remove_library(package)
    (package.parent / "setup.py").touch()
    # Found before an s2t_ext that may be installed, so that none with a library is.
    (package.parent / "site" / "s2t_ext").mkdir(parents=True)
    (package.parent / "site" / "s2t_ext" / "__init__.py").touch()


def truncate(package: Path, library: str = LIBRARY) -> None:
    content = (package / library).read_bytes()
    (package / library).write_bytes(content[: len(content) // 2])


def replace_by_text(package: Path, library: str = LIBRARY) -> None:
    (package / library).write_text("no library")


def raise_version(package: Path) -> None:
    (package / "_version.py").write_text('__version__ = "99.0"\n')


def need_a_newer_torch(package: Path) -> None:
    record = json.loads((package / "_build_info.json").read_text("utf-8"))
    (package / "_build_info.json").write_text(json.dumps(record | {"torch_target": "99.0"}))


def expect_another_operator(package: Path) -> None:
    path = package / "native" / "library.py"
    text = path.read_text("utf-8")
    path.write_text(text.replace('    "support_kl",', '    "support_kl2",'))


DAMAGES = {
    remove_library: ("the installation has no library for this Python", "--force-reinstall"),
    remove_every_trace: ("built: nothing (no record of a build", "--force-reinstall"),
    leave_another_pythons: (
        "it was built for another Python: there is _C.cpython-39-",
        "reinstall",
    ),
    put_into_a_source_folder: ("a source folder in which nothing was built", "pip install -e ."),
    truncate: (f"{LIBRARY} is incomplete", "--force-reinstall"),
    replace_by_text: ("loading it failed: ImportError", "--force-reinstall"),
    raise_version: ("and this is s2t_ext 99.0", "--force-reinstall"),
    need_a_newer_torch: ("it needs torch >= 99.0, and this is torch", "pip install 'torch>=99.0'"),
    expect_another_operator: ("it lacks support_kl2: it was built from other", "--force-reinstall"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_fallback_says_what_was_built_what_was_found_and_what_to_do(package, damage):
    damage(package)
    result = run(package, FALLBACK, package.parent / "site")
    assert result.returncode == 0, result.stderr
    reason, remedy = DAMAGES[damage]
    for text in (result.stdout, result.stderr):
        assert "the native library _C is not in use, because" in text
        assert reason in text
        assert remedy in text
        assert "\n  built: " in text
        assert f"\n  found: Python {sys.version.split()[0]}, torch {torch.__version__}," in text
    assert result.stderr.count("NativeLibraryWarning") == 1
    assert "plain PyTorch: the same results, slower" in result.stderr


def test_source_folder_uses_the_library_of_the_installed_copy(package, tmp_path):
    """After `pip install .`, Python started in the checkout imports the checkout's package."""
    installed = copy_package(tmp_path / "site" / "s2t_ext")
    remove_every_trace(package)
    (package.parent / "setup.py").touch()
    code = """
import s2t_ext
found = s2t_ext.info()
print(found.location, found.native.path, found.cpu.used, sep="\\n")
"""
    result = run(package, code, installed.parent)
    assert result.returncode == 0, result.stderr
    location, library, isa = result.stdout.split("\n")[:3]
    assert location == str(package)
    assert library == str(installed / LIBRARY)
    assert isa == cpu_isa.current()
    assert "Warning" not in result.stderr
    raise_version(package)
    assert "and this is s2t_ext 99.0" in run(package, code, installed.parent).stderr


@pytest.mark.parametrize("damage", [remove_library, truncate], ids=lambda damage: damage.__name__)
def test_require_native_makes_it_an_import_error(package, damage):
    damage(package)
    result = run(package, "import s2t_ext", S2T_EXT_REQUIRE_NATIVE="1")
    assert result.returncode == 1
    assert "ImportError: s2t_ext: the native library _C is not in use, because" in result.stderr
    assert DAMAGES[damage][0] in result.stderr
    assert "S2T_EXT_REQUIRE_NATIVE=1 makes this an error" in result.stderr


def test_what_needs_the_library_raises_the_same_message(package):
    remove_library(package)
    code = """
import warnings
warnings.simplefilter("ignore")
from s2t_ext import cpu_isa
from s2t_ext.native import library as _library
assert cpu_isa.available() == () and cpu_isa.current() is None
for call in (_library.native, lambda: cpu_isa.force("scalar")):
    try:
        call()
    except ImportError as error:
        assert str(error) == _library.load_error()
    else:
        raise AssertionError("no ImportError")
"""
    result = run(package, code)
    assert result.returncode == 0, result.stderr


# ---- the CUDA library ----------------------------------------------------------------------------

# A CUDA build of torch is imitated where there is none: only its version is looked at.
AS_IF_CUDA = """
import torch
torch.version.cuda = torch.version.cuda or "13.0"
from s2t_ext import cpu_isa
from s2t_ext.native import library as _library
assert _library.is_loaded()
print(_library.cuda_is_loaded(), _library.cuda_load_error())
"""


def test_cuda_library_is_not_looked_for_with_a_cpu_build_of_torch(package):
    (package / "_C_cuda.so").write_text("no library")
    code = "import torch\ntorch.version.cuda = None\n" + AS_IF_CUDA.replace(' or "13.0"', "")
    result = run(package, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("False torch ")
    assert "is a CPU build" in result.stdout
    assert "Warning" not in result.stderr


def test_cuda_library_that_was_not_built(package):
    (package / "_C_cuda.so").unlink(missing_ok=True)
    result = run(package, AS_IF_CUDA)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("False _C_cuda was not built: ")
    assert "Warning" not in result.stderr


@pytest.mark.parametrize("require", ["0", "1"])
def test_a_gpu_without_the_cuda_library_is_told_once(package, require):
    (package / "_C_cuda.so").unlink(missing_ok=True)
    code = "import torch\ntorch.cuda.device_count = lambda: 1\n" + AS_IF_CUDA
    result = run(package, code + "import s2t_ext\n", S2T_EXT_REQUIRE_NATIVE=require)
    message = "the native library _C_cuda is not in use, because _C_cuda was not built: "
    if require == "1":
        assert result.returncode == 1
        assert "ImportError" in result.stderr and message in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert result.stderr.count(message) == 1
        assert "to do: with the CUDA toolkit at hand, install s2t_ext again" in result.stderr
        assert result.stdout.startswith("False _C_cuda was not built: ")


@pytest.mark.parametrize("damage", [replace_by_text, truncate], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("require", ["0", "1"])
def test_cuda_library_that_cannot_be_loaded(package, require, damage):
    shutil.copy(package / LIBRARY, package / "_C_cuda.so")
    damage(package, "_C_cuda.so")
    result = run(package, AS_IF_CUDA, S2T_EXT_REQUIRE_NATIVE=require)
    message = (
        "s2t_ext: the native library _C_cuda is not in use, because loading it failed: OSError"
    )
    assert message in result.stderr
    if require == "1":
        assert result.returncode == 1
        assert "ImportError" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        assert message in result.stdout
