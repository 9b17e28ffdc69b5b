"""`s2t_ext.info()`, `python -m s2t_ext info`, and the choice of the CPU instruction set."""

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import s2t_ext
from s2t_ext.cli import app
from s2t_ext.native import cpu_isa
from s2t_ext.native import library as _library


@pytest.fixture
def no_warning(recwarn):
    yield
    assert not recwarn.list, [str(warning.message) for warning in recwarn.list]


def test_info_tells_what_is_here(no_warning):
    found = s2t_ext.info()
    assert found.version == s2t_ext.__version__
    assert found.packages["torch"] == torch.__version__
    assert found.native.loaded, found.native.error
    assert found.native.build["version"] == found.version
    assert "scalar" in found.cpu.available
    assert set(found.cpu.available) <= set(found.cpu.compiled)
    assert found.cpu.used == cpu_isa.current()
    assert found.cpu.threads == torch.get_num_threads()
    assert found.cuda.torch_cuda == torch.version.cuda
    assert len(found.cuda.devices) == torch.cuda.device_count()
    assert found.cuda.loaded == (found.cuda.error is None)


def test_info_as_dict_is_json():
    found = s2t_ext.info()
    again = json.loads(json.dumps(found.as_dict()))
    assert again["cpu"]["used"] == found.cpu.used
    assert again["native"]["build"] == found.native.build


def test_command_prints_every_part():
    result = CliRunner().invoke(app, ["info"], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    found = s2t_ext.info()
    for text in (
        f"{found.version} in ",
        f"torch {torch.__version__}",
        found.native.build["compiler"],
        found.native.build["flags"],
        ", ".join(found.cpu.compiled),
        f"{found.cpu.used}, {found.cpu.threads} threads",
        "CUDA of torch",
        "_C_cuda",
    ):
        assert text in result.output


def test_command_prints_json():
    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == json.loads(json.dumps(s2t_ext.info().as_dict()))


def test_command_without_the_native_library(monkeypatch):
    monkeypatch.setattr(_library._state, "module", None)
    monkeypatch.setattr(_library._state, "error", "s2t_ext: the reason [/and] the remedy")
    result = CliRunner().invoke(app, ["info"], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert "the reason [/and] the remedy" in result.output  # no markup of rich's
    assert "plain PyTorch" in result.output


def test_command_without_any_build(monkeypatch, tmp_path):
    monkeypatch.setattr(_library._state, "module", None)
    monkeypatch.setattr(_library, "FOLDER", tmp_path)
    found = s2t_ext.info()
    assert found.native.build is None
    assert (found.cpu.compiled, found.cpu.available, found.cpu.used) == ((), (), None)
    assert CliRunner().invoke(app, ["info"]).exit_code == 0


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)


def test_module_is_a_command():
    result = python("-m", "s2t_ext", "info", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["version"] == s2t_ext.__version__


def test_help_lists_the_command():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "info" in result.output


def test_importing_the_package_or_the_command_line_leaves_transformers_out():
    code = "import sys, s2t_ext.cli; print('transformers' in sys.modules)"
    assert python("-c", code).stdout.strip() == "False"


# ---- instruction sets ----------------------------------------------------------------------------


def test_every_available_isa_can_be_forced():
    before = cpu_isa.current()
    assert before in cpu_isa.available()
    for name in cpu_isa.available():
        with cpu_isa.forced(name):
            assert cpu_isa.current() == name
    assert cpu_isa.current() == before
    cpu_isa.force("scalar")
    cpu_isa.force(None)
    assert cpu_isa.current() == before


def test_unknown_isa_is_refused():
    before = cpu_isa.current()
    usable = ", ".join(cpu_isa.available())
    with pytest.raises(
        ValueError, match=f"^cpu_isa.force: name must be one of {usable}, got sse9$"
    ):
        cpu_isa.force("sse9")
    with pytest.raises(ValueError, match="got sse9$"):
        _library.native().set_cpu_isa("sse9")
    assert cpu_isa.current() == before


def test_environment_variable_forces_an_isa():
    code = "from s2t_ext import cpu_isa; print(cpu_isa.current())"
    assert python("-c", code, S2T_EXT_FORCE_CPU_ISA="scalar").stdout.strip() == "scalar"


def test_wrong_environment_variable_is_an_error_and_info_shows_it():
    code = "from s2t_ext import cpu_isa; cpu_isa.current()"
    result = python("-c", code, S2T_EXT_FORCE_CPU_ISA="sse9")
    assert result.returncode == 1
    assert "RuntimeError: s2t_ext: S2T_EXT_FORCE_CPU_ISA must be one of" in result.stderr
    shown = python("-m", "s2t_ext", "info", "--json", S2T_EXT_FORCE_CPU_ISA="sse9")
    assert "S2T_EXT_FORCE_CPU_ISA" in json.loads(shown.stdout)["cpu"]["used"]
