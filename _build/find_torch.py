"""Finds the torch to build against, without importing it.

Only torch's headers and the names of its libraries are needed, so no `import torch` (slow, and
impossible under pip's build isolation, which hides the environment one is installing into). The
environment itself is still on disk: pip's isolated build runs the same interpreter, so its
site-packages can be looked at. `python -m build` runs another interpreter; then the activated
environment, the environment that made the build environment, and those on PATH are looked at.

Because s2t_ext uses LibTorch's stable ABI, a library built with one torch runs with every torch
from MINIMUM on: finding "the wrong one" of several is harmless, and the choice is logged.
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MINIMUM = (2, 10)


class TorchNotFound(RuntimeError):
    """No usable torch; the text says what was found instead and what to do."""


class WrongTorchPath(RuntimeError):
    """S2T_EXT_TORCH_PATH names no usable torch. No TorchNotFound: no other may take its place."""


@dataclass(frozen=True)
class Torch:
    """A torch package on disk."""

    root: Path  # the folder with version.py, include/ and lib/
    version: str
    cuda: str | None  # None: a CPU build
    source: str  # how it was found

    def __str__(self) -> str:
        kind = f"CUDA {self.cuda}" if self.cuda else "CPU build"
        return f"torch {self.version} ({kind}) in {self.root} [{self.source}]"


@dataclass(frozen=True)
class Surroundings:
    """What the search depends on; a parameter so that tests can make their own."""

    environ: Mapping[str, str]
    prefix: Path
    base_prefix: Path
    python: tuple[int, int]
    use_import_system: bool = True
    user_site: str | None = None

    @classmethod
    def current(cls) -> Surroundings:
        return cls(
            environ=os.environ,
            prefix=Path(sys.prefix),
            base_prefix=Path(sys.base_prefix),
            python=(sys.version_info.major, sys.version_info.minor),
            user_site=site.getusersitepackages(),
        )


def locate(around: Surroundings | None = None) -> Torch:
    """Returns the first usable torch, in the order of the module's docstring.

    Raises:
        TorchNotFound: there is none.
        WrongTorchPath: S2T_EXT_TORCH_PATH is set and names a folder without one.
    """
    around = around or Surroundings.current()
    forced = around.environ.get("S2T_EXT_TORCH_PATH")
    if forced:
        return _forced(Path(forced))
    rejected = []
    for source, root in _candidates(around):
        found, reason = inspect(root, source)
        if found:
            return found
        if reason:
            rejected.append(f"  {root}: {reason}")
    seen = "\n".join(rejected) or "  none in this environment, the activated one, or on PATH"
    raise TorchNotFound(
        f"no torch >= {MINIMUM[0]}.{MINIMUM[1]} to build against. Found:\n{seen}\n"
        "Install torch first, or name the folder that holds it with S2T_EXT_TORCH_PATH."
    )


def inspect(root: Path, source: str) -> tuple[Torch | None, str | None]:
    """Judges a folder `.../torch`: (torch, None), (None, why not), or (None, None) for nothing."""
    version_file = root / "version.py"
    if not version_file.is_file():
        return None, None
    text = version_file.read_text(encoding="utf-8")
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    if version is None:
        return None, "version.py names no version"
    cuda = re.search(r"^cuda\s*(?::[^=]+)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    if parse_version(version[1]) < MINIMUM:
        return None, f"torch {version[1]} is older than {MINIMUM[0]}.{MINIMUM[1]}"
    if not (root / "include" / "torch" / "csrc" / "stable" / "library.h").is_file():
        return None, f"torch {version[1]} has no headers of the stable ABI"
    return Torch(root.resolve(), version[1], cuda[1] if cuda else None, source), None


def parse_version(text: str) -> tuple[int, int]:
    """'2.13.0+cpu' -> (2, 13); (0, 0) for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _forced(folder: Path) -> Torch:
    # Both .../site-packages and .../site-packages/torch are what a user may mean.
    for root in (folder, folder / "torch"):
        found, reason = inspect(root, "S2T_EXT_TORCH_PATH")
        if found:
            return found
        if reason:
            raise WrongTorchPath(f"S2T_EXT_TORCH_PATH={folder}: {reason}")
    raise WrongTorchPath(
        f"S2T_EXT_TORCH_PATH must name the folder of an installed torch, got {folder}"
    )


def _candidates(around: Surroundings) -> Iterator[tuple[str, Path]]:
    if around.use_import_system:
        spec = importlib.util.find_spec("torch")
        if spec and spec.origin:
            yield "importable here", Path(spec.origin).parent
    for source, prefix in _prefixes(around):
        for folder in _site_folders(prefix, around.python):
            yield source, folder / "torch"
    if around.user_site:
        yield "user site-packages", Path(around.user_site) / "torch"


def _prefixes(around: Surroundings) -> Iterator[tuple[str, Path]]:
    yield "environment of this interpreter", around.prefix
    config = _read_pyvenv(around.prefix)
    if config.get("include-system-site-packages", "false").lower() == "true":
        yield "system packages of this environment", around.base_prefix
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if around.environ.get(variable):
            yield f"activated environment ({variable})", Path(around.environ[variable])
    # `python -m build` makes its environment with the venv module, which records the interpreter
    # that ran it: "command = /home/me/.venv/bin/python -m venv ...". So an environment is found
    # that was used without being activated.
    creator = config.get("command", "").split(" -m venv ")[0]
    if creator and Path(creator).is_absolute():
        yield "environment that made this one", Path(creator).parent.parent
    for folder in around.environ.get("PATH", "").split(os.pathsep):
        if folder and (Path(folder) / "python3").exists():
            yield "environment on PATH", Path(folder).parent


def _read_pyvenv(prefix: Path) -> dict[str, str]:
    try:
        lines = (prefix / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _site_folders(prefix: Path, python: tuple[int, int]) -> list[Path]:
    # Only folders of the same Python: another one's torch has the same headers, but an environment
    # of another Python is more likely to be somebody else's.
    version = f"python{python[0]}.{python[1]}"
    return [
        prefix / "lib" / version / "site-packages",
        prefix / "lib64" / version / "site-packages",
        prefix / "lib" / version / "dist-packages",
        prefix / "lib" / "python3" / "dist-packages",
        prefix / "Lib" / "site-packages",
    ]


if __name__ == "__main__":
    # Used by CMakeLists.txt when CMake is run by hand.
    sys.stdout.write(str(locate().root))
