"""The numbers among the arguments of a function or the fields of a dataclass, by their annotations.

Python's, numpy's and torch's numbers of any width become Python's; anything else is refused with
the name of the argument, before a long run begins.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from s2t_ext.runs.numbers import integer, number

P = ParamSpec("P")
R = TypeVar("R")

#: Of which there is at least one, wherever they occur.
_COUNTS = ("max_new_tokens", "batch_size", "rollouts")


def checked_numbers(function: Callable[P, R]) -> Callable[P, R]:
    """Normalises the arguments annotated as `int` or `float`, or one of them `| None`.

    The function then raises ValueError for one that is no such number, for NaN, and for a count
    below 1.
    """
    signature = inspect.signature(function)
    kinds = _kinds({name: p.annotation for name, p in signature.parameters.items()})

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # which says it in Python's words
        for name, kind in kinds.items():
            if name in bound.arguments:
                value = bound.arguments[name]
                bound.arguments[name] = kind(function.__name__, name, value)
        return function(*bound.args, **bound.kwargs)

    return checked


def normalise_number_fields(instance: Any) -> None:
    """The same for a dataclass, frozen or not, in its `__post_init__`."""
    fields = {field.name: field.type for field in dataclasses.fields(instance)}
    where = type(instance).__name__
    for name, kind in _kinds(fields).items():
        object.__setattr__(instance, name, kind(where, name, getattr(instance, name)))


def _kinds(annotations: Mapping[str, Any]) -> dict[str, Callable[[str, str, Any], Any]]:
    """How each number is normalised; annotations are read as they are written."""
    found: dict[str, Callable[[str, str, Any], Any]] = {}
    for name, annotation in annotations.items():
        plain, optional, _ = str(annotation).partition(" | None")
        if plain in ("int", "float"):
            found[name] = functools.partial(_normalised, plain == "int", bool(optional))
    return found


def _normalised(whole: bool, optional: bool, where: str, name: str, value: Any) -> Any:
    if value is None and optional:
        return None
    plain = integer(where, name, value) if whole else number(where, name, value)
    if plain != plain:
        raise ValueError(f"{where}: {name} must be a number, got {value!r}")
    if name in _COUNTS and plain < 1:
        raise ValueError(f"{where}: {name} must be at least 1, got {value!r}")
    return plain
