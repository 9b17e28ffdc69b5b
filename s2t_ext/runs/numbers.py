"""Numbers as callers hand them over, normalised once where they enter or refused there: Python's,
numpy's and torch's, of any width, whatever torch's default dtype is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from numbers import Integral, Real
from typing import Any


def integer(where: str, name: str, value: Any) -> int:
    """A whole number; raises ValueError for anything else, `True` and 4.0 included."""
    plain = _scalar(value)
    if not isinstance(plain, Integral) or isinstance(plain, bool):
        raise ValueError(f"{where}: {name} must be an integer, got {value!r}")
    return int(plain)


def number(where: str, name: str, value: Any) -> float:
    """A number, possibly infinite or NaN; raises ValueError for anything else, `True` included."""
    plain = _scalar(value)
    if not isinstance(plain, Real) or isinstance(plain, bool):
        raise ValueError(f"{where}: {name} must be a number, got {value!r}")
    return float(plain)


def finite(where: str, name: str, value: Any) -> float:
    """A finite number."""
    plain = number(where, name, value)
    if not math.isfinite(plain):
        raise ValueError(f"{where}: {name} must be finite, got {plain}")
    return plain


def positive(where: str, name: str, value: Any) -> float:
    """A finite number above 0."""
    plain = number(where, name, value)
    if not plain > 0:
        raise ValueError(f"{where}: {name} must be above 0, got {plain}")
    return finite(where, name, plain)


def integers(where: str, name: str, values: Any) -> list[int]:
    """A sequence of whole numbers: a list, a tuple, a range, a tensor or an array of one axis."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(plain, (str, bytes, Set)) or not isinstance(plain, Iterable):
        raise ValueError(f"{where}: {name} must be a sequence of integers, got {values!r}")
    return [integer(where, name, value) for value in plain]


def _scalar(value: Any) -> Any:
    """The Python number in a numpy scalar or in a tensor or array without axes."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def without_nan(value: Any) -> Any:
    """Nested plain values, with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
