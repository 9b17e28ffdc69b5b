"""Forward hooks and replaced forwards of modules, whose they are, and whether they are run."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
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


def is_compiled(module: nn.Module) -> bool:
    """Whether the caller has compiled this module itself, its forward or its whole call; what
    transformers compiles beside them does not count.
    """
    own = [value for name, value in list(vars(module).items()) if hasattr(nn.Module, name)]
    return any(_is_of_the_compiler(value) for value in own if callable(value))


def _is_of_the_compiler(value: Any) -> bool:
    """Whether a function, or one that it wraps, is what `torch.compile` returns."""
    while value is not None:
        code = getattr(value, "__globals__", {})
        if code.get("__name__", "").startswith("torch._dynamo."):
            return True
        value = getattr(value, "__wrapped__", None)
    return False


@contextlib.contextmanager
def hooks_are_run(*modules: nn.Module) -> Iterator[None]:
    """Inside the block, nothing runs compiled if the caller has compiled one of the modules.

    Compiled code does not run the hooks that are registered after it was made, and a full graph
    takes none that asks for its thread.
    """
    if not any(map(is_compiled, modules)):
        yield
        return
    _eager.enter()
    try:
        yield
    finally:
        _eager.leave()


class _Eager:
    """torch's stance is one for all threads: the first of them sets it, the last takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stance: Any = None

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stance = torch.compiler.set_stance("force_eager")
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._stance.__exit__(None, None, None)


_eager = _Eager()
