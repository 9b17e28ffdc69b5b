"""The one form of an error about an argument."""

from __future__ import annotations

from typing import Any


def require(condition: object, function: str, argument: str, rule: str, value: Any) -> None:
    """Raises ValueError `<function>: <argument> must <rule>, got <value>` unless `condition` holds.

    Args:
        condition: What must be true.
        function: Who was called.
        argument: The name of the argument that is wrong.
        rule: What it must do or be: "be at least 1".
        value: What it is.
    """
    if not condition:
        raise ValueError(f"{function}: {argument} must {rule}, got {value}")
