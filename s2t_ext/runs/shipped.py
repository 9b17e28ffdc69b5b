"""Selectors, and adapters that choose, which ship with the package and are found by name:
`s2t_ext/NAME`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
#: One folder per selector.
_SHIPPED = _PACKAGE / "selectors" / "shipped"
PREFIX = "s2t_ext/"


def shipped_selectors() -> dict[str, Path]:
    """The folders of all shipped selectors, by name."""
    found = {"s2t_ext/demo": _PACKAGE / "demo" / "assets" / "selector"}
    if _SHIPPED.is_dir():
        found |= {f"{PREFIX}{path.name}": path for path in _SHIPPED.iterdir() if path.is_dir()}
    return found


def shipped_folder(name: str | Path, reader: str = "load_selector") -> Path | None:
    """The folder of a shipped selector; None for a name without the prefix, or another folder's.

    Args:
        name: Of the selector, with the prefix, or any path or repository.
        reader: In whose name errors are raised.

    Raises:
        FileNotFoundError: for a name with the prefix that no selector has.
    """
    if not str(name).startswith(PREFIX):
        return None
    known = shipped_selectors()
    if str(name) not in known:
        if Path(name).is_dir():
            return None
        raise FileNotFoundError(
            f"{reader}: path_or_repo must be one of {', '.join(sorted(known))} or a folder or "
            f"hub repository, got {name}"
        )
    return known[str(name)]
