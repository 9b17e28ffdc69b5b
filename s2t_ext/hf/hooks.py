"""Forward hooks and replaced forwards of a model's modules, and whose they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

#: Where a module keeps its forward hooks, by their unique ids.
_TABLES = [n for n in vars(nn.Module()) if "forward" in n and n.endswith("hooks")]
#: The hooks of all modules there are, in tables of torch's own.
_OF_ALL = [
    table
    for name, table in vars(torch_module).items()
    if name.startswith("_global_forward") and name.endswith("hooks")
]
#: Methods that no forward calls.
_AROUND_THE_FORWARD = {
    "__init__",
    "eval",
    "from_pretrained",
    "generate",
    "save_pretrained",
    "train",
}
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

    What such a class does may depend on the length, which a short forward does not show; that of
    the model itself and of its body no less. Layers that take one tensor and nothing else, as those
    of other packages for quantised weights and fused products do, cannot tell how many tokens there
    are before theirs.
    """
    for name, module in model.named_modules():
        kind = type(module)
        method = "forward" if not _is_trusted(kind.forward) else _own_method(kind)
        if method is not None and _takes_more_than_one(kind.forward):
            where = name or "the model"
            own = _describe(getattr(kind, method))
            return f"the {method} of {where} is not transformers' own ({own})"
    return None


def _own_method(kind: type[nn.Module]) -> str | None:
    """A method that a class of the caller's own puts in the place of a library's, and that the
    forward may call; None if there is none.
    """
    trusted = [base for base in kind.__mro__ if base.__module__.split(".")[0] in _TRUSTED]
    for base in kind.__mro__:
        if base in trusted or base is object:
            continue
        for name, value in vars(base).items():
            replaces = any(name in vars(other) for other in trusted)
            acts = isinstance(value, property) or (callable(value) and not isinstance(value, type))
            if replaces and acts and name not in _AROUND_THE_FORWARD:
                return name
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
