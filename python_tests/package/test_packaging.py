"""The build finds the torch that is there: _build/find_torch.py and _build/backend.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[2] / "_build"
PYTHON = (3, 11)
SITE = Path("lib/python3.11/site-packages")


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, BUILD / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


find_torch = load("find_torch")
backend = load("backend")


def make_torch(
    site: Path, version: str = "2.13.0+cpu", cuda: str | None = None, headers=True
) -> Path:
    root = site / "torch"
    stable = root / "include" / "torch" / "csrc" / "stable"
    stable.mkdir(parents=True)
    if headers:
        (stable / "library.h").touch()
    (root / "version.py").write_text(
        f"from typing import Optional\n__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n"
    )
    return root


def surroundings(tmp_path: Path, **changes):
    """An empty environment at tmp_path/env, as a build sees it that hides site-packages."""
    values = {
        "environ": {},
        "prefix": tmp_path / "env",
        "base_prefix": tmp_path / "base",
        "python": PYTHON,
        "use_import_system": False,
    }
    return find_torch.Surroundings(**(values | changes))


def test_the_environment_of_the_interpreter_comes_first(tmp_path):
    mine = make_torch(tmp_path / "env" / SITE, "2.13.0+cpu")
    make_torch(tmp_path / "other" / SITE, "2.14.1")
    found = find_torch.locate(
        surroundings(tmp_path, environ={"VIRTUAL_ENV": str(tmp_path / "other")})
    )
    assert (found.root, found.version, found.cuda) == (mine, "2.13.0+cpu", None)


def test_cuda_version_is_read(tmp_path):
    make_torch(tmp_path / "env" / SITE, "2.14.1+cu130", cuda="13.0")
    assert find_torch.locate(surroundings(tmp_path)).cuda == "13.0"


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_activated_environment(tmp_path, variable):
    root = make_torch(tmp_path / "active" / SITE)
    found = find_torch.locate(surroundings(tmp_path, environ={variable: str(tmp_path / "active")}))
    assert found.root == root
    assert variable in found.source


def test_environment_that_made_the_build_environment(tmp_path):
    """`.venv/bin/python -m build` without activation."""
    root = make_torch(tmp_path / "maker" / SITE)
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ncommand = {tmp_path}/maker/bin/python -m venv --clear {tmp_path}/env\n"
    )
    assert find_torch.locate(surroundings(tmp_path)).root == root


@pytest.mark.parametrize("visible", ["true", "false"])
def test_system_site_packages(tmp_path, visible):
    root = make_torch(tmp_path / "base" / SITE)
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").write_text(f"include-system-site-packages = {visible}\n")
    if visible == "true":
        assert find_torch.locate(surroundings(tmp_path)).root == root
    else:
        with pytest.raises(find_torch.TorchNotFound):
            find_torch.locate(surroundings(tmp_path))


@pytest.mark.parametrize("other_python", [False, True])
def test_environments_on_path_of_the_same_python(tmp_path, other_python):
    site = Path("lib/python3.12/site-packages") if other_python else SITE
    root = make_torch(tmp_path / "listed" / site)
    (tmp_path / "listed" / "bin").mkdir()
    (tmp_path / "listed" / "bin" / "python3").touch()
    around = surroundings(tmp_path, environ={"PATH": f"/nowhere:{tmp_path}/listed/bin"})
    if other_python:
        with pytest.raises(find_torch.TorchNotFound):
            find_torch.locate(around)
    else:
        assert find_torch.locate(around).root == root


def test_user_site(tmp_path):
    root = make_torch(tmp_path / "user")
    assert find_torch.locate(surroundings(tmp_path, user_site=str(tmp_path / "user"))).root == root


def test_importable_torch_wins(tmp_path):
    """No build isolation: what this interpreter imports is what it builds against."""
    import torch

    make_torch(tmp_path / "env" / SITE)
    found = find_torch.locate(surroundings(tmp_path, use_import_system=True))
    assert found.root == Path(torch.__file__).resolve().parent
    assert found.version == torch.__version__


def test_unusable_torch_is_passed_over_and_named(tmp_path):
    old = make_torch(tmp_path / "env" / SITE, "2.9.1")
    bare = make_torch(tmp_path / "bare" / SITE, "2.13.0", headers=False)
    around = surroundings(tmp_path, environ={"VIRTUAL_ENV": str(tmp_path / "bare")})
    with pytest.raises(find_torch.TorchNotFound) as caught:
        find_torch.locate(around)
    assert f"{old}: torch 2.9.1 is older than 2.10" in str(caught.value)
    assert f"{bare}: torch 2.13.0 has no headers of the stable ABI" in str(caught.value)
    assert "S2T_EXT_TORCH_PATH" in str(caught.value)
    good = make_torch(tmp_path / "good" / SITE)
    around.environ["CONDA_PREFIX"] = str(tmp_path / "good")
    assert find_torch.locate(around).root == good


@pytest.mark.parametrize("folder", ["named", "named/torch"])
def test_forced_path(tmp_path, folder):
    make_torch(tmp_path / "env" / SITE)
    root = make_torch(tmp_path / "named")
    environ = {"S2T_EXT_TORCH_PATH": str(tmp_path / folder)}
    assert find_torch.locate(surroundings(tmp_path, environ=environ)).root == root


@pytest.mark.parametrize("version", [None, "2.8.0"])
def test_wrong_forced_path_is_an_error_and_nothing_else_is_used(tmp_path, monkeypatch, version):
    make_torch(tmp_path / "env" / SITE)
    if version:
        make_torch(tmp_path / "named", version)
    monkeypatch.setenv("S2T_EXT_TORCH_PATH", str(tmp_path / "named"))
    with pytest.raises(find_torch.WrongTorchPath, match="S2T_EXT_TORCH_PATH"):
        backend.torch_requirement()


def test_backend_asks_for_torch_only_where_there_is_none(tmp_path, monkeypatch, capsys):
    around = surroundings(tmp_path)
    monkeypatch.setattr(find_torch.Surroundings, "current", lambda: around)
    assert backend.torch_requirement() == ["torch>=2.10"]
    make_torch(tmp_path / "env" / SITE)
    assert backend.torch_requirement() == []
    assert "will use torch 2.13.0+cpu (CPU build)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"]
)
def test_hooks_add_the_requirement_to_setuptools_own(monkeypatch, hook):
    monkeypatch.setattr(backend._setuptools, hook, lambda settings: ["wheel"])
    monkeypatch.setattr(backend, "torch_requirement", lambda: ["torch>=2.10"])
    assert getattr(backend, hook)() == ["wheel", "torch>=2.10"]


@pytest.mark.parametrize(
    ("text", "pair"), [("2.13.0+cpu", (2, 13)), ("2.10.0a0+git1", (2, 10)), ("unknown", (0, 0))]
)
def test_parse_version(text, pair):
    assert find_torch.parse_version(text) == pair
