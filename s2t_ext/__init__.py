"""Select-to-Think decoding: a small language model re-ranks its own candidates.

The public names stand in `__init__.pyi`. They are loaded when first used, so `import s2t_ext` does
not import transformers.
"""

import ast
import importlib
import pathlib
import sys
from typing import Any


def _is_the_program() -> bool:
    """Whether Python is starting `python -m s2t_ext` or `s2t-ext`."""
    if sys.argv[:1] != ["-m"]:  # what Python puts there while it looks for the module to run
        return pathlib.PurePath(sys.argv[0] if sys.argv else "").name == "s2t-ext"
    return sys.orig_argv[sys.orig_argv.index("-m") + 1] == "s2t_ext"


# Loads the native operators (torch.ops.s2t_ext.*), or warns that they are missing. The command line
# checks its arguments first: it says no, or prints its help, without loading torch.
if not _is_the_program():
    importlib.import_module("s2t_ext.native.library")


def _public_names() -> dict[str, str]:
    """The module of each public name; "" for a name that is a module of the package itself."""
    stub = ast.parse(pathlib.Path(__file__).with_suffix(".pyi").read_text("utf-8"))
    return {
        alias.name: statement.module or ""
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


_MODULE_OF = _public_names()
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name == "cpu_isa":
        return importlib.import_module("s2t_ext.native.cpu_isa")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 's2t_ext' has no attribute '{name}'")
    module = _MODULE_OF[name]
    value = importlib.import_module(f"s2t_ext.{module or name}")
    if module:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
