"""Forward hooks and replaced forwards of a model's modules, and whose they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel

#: Where a module keeps its forward hooks, by their unique ids.
_TABLES = [n for n in vars(nn.Module()) if "forward" in n and n.endswith("hooks")]
#: The hooks of all modules there are, in tables of torch's own.
_OF_ALL = [
    table
    for name, table in vars(torch_module).items()
    if name.startswith("_global_forward") and name.endswith("hooks")
]
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
    for hook in [hook for table in _OF_ALL for hook in list(table.values())]:
        if not _is_trusted(hook):
            return f"all modules have a forward hook ({_describe(hook)})"
    for name, module in model.named_modules():
        for _, hook in hooks_of(module):
            if not _is_trusted(hook):
                return f"{name or 'the model'} has a forward hook ({_describe(hook)})"
        forward = vars(module).get("forward")
        if forward is not None and not _is_trusted(forward):
            return f"the forward of {name or 'the model'} is replaced ({_describe(forward)})"
    return None


def foreign_class(model: nn.Module) -> str | None:
    """A module whose class computes something of the caller's own, in words; None if there is none.

    Layers that take one tensor and nothing else, as those of other packages for quantised weights
    and fused products do, cannot tell how many tokens there are before theirs; and what the model
    and its body do around their modules is for the self-test to find out.
    """
    for name, module in model.named_modules():
        forward = type(module).forward
        if isinstance(module, PreTrainedModel) or _is_trusted(forward):
            continue
        if _takes_more_than_one(forward):
            return f"the forward of {name} is not transformers' own ({_describe(forward)})"
    return None


def _takes_more_than_one(forward: Callable[..., Any]) -> bool:
    _, *parameters = inspect.signature(forward).parameters.values()
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return len(parameters) != 1 or parameters[0].kind not in single


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
