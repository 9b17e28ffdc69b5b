"""Forward hooks and replaced forwards of a model's modules, and whose they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

#: Where a module keeps its forward hooks, by their unique ids.
_TABLES = [n for n in vars(nn.Module()) if "forward" in n and n.endswith("hooks")]
#: Packages whose own hooks and replaced forwards treat every token and row alike.
_TRUSTED = ("accelerate", "peft", "torch", "transformers")


def hooks_of(module: nn.Module) -> Iterator[tuple[int, Callable[..., Any]]]:
    """(id, hook) of one module's forward hooks, without those of this package."""
    for table in _TABLES:
        for key, hook in list(vars(module)[table].items()):
            if _packages(hook) != ["s2t_ext"]:
                yield key, hook


def foreign_code(model: nn.Module) -> str | None:
    """A forward hook or replaced forward that is the caller's own, in words; None if there is
    none.
    """
    for name, module in model.named_modules():
        for _, hook in hooks_of(module):
            if not _is_trusted(hook):
                return f"{name or 'the model'} has a forward hook ({_describe(hook)})"
        forward = vars(module).get("forward")
        if forward is not None and not _is_trusted(forward):
            return f"the forward of {name or 'the model'} is replaced ({_describe(forward)})"
    return None


def _is_trusted(function: Any) -> bool:
    return all(package in _TRUSTED for package in _packages(function))


def _packages(function: Any) -> list[str]:
    """Of a callable and all that it wraps."""
    packages = []
    while function is not None:
        inner = getattr(function, "func", None) or getattr(function, "__func__", None) or function
        module = getattr(inner, "__module__", None) or type(inner).__module__
        packages.append(module.split(".")[0])
        function = getattr(function, "__wrapped__", None)
    return packages


def _describe(function: Any) -> str:
    inner = getattr(function, "func", function)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{getattr(inner, '__module__', type(inner).__module__)}.{name}"
