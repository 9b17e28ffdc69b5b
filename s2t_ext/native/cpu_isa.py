"""Which CPU instruction set the kernels use: `scalar`, `avx2` or `avx512`.

The best that was compiled and that the processor has is chosen when a kernel first runs; the
environment variable S2T_EXT_FORCE_CPU_ISA names another. Results do not depend on it, only the time
does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from s2t_ext.native import library as _library


def available() -> tuple[str, ...]:
    """Names of the usable instruction sets, weakest first; empty without the native library."""
    return tuple(_library.native().cpu_isas()) if _library.is_loaded() else ()


def current() -> str | None:
    """The name of the one in use; None without the native library.

    Raises:
        RuntimeError: S2T_EXT_FORCE_CPU_ISA names none that is usable here.
    """
    if not _library.is_loaded():
        return None
    name: str = _library.native().cpu_isa()
    return name


def force(name: str | None) -> None:
    """Use this one from now on, in all threads; None returns to the default.

    Raises:
        ValueError: `name` is not one of `available()`.
        ImportError: the native library is not loaded.
    """
    native = _library.native()
    usable = available()
    if name is not None and name not in usable:
        raise ValueError(f"cpu_isa.force: name must be one of {', '.join(usable)}, got {name}")
    native.set_cpu_isa(name or "")


@contextmanager
def forced(name: str) -> Iterator[None]:
    """`with forced("avx2"): ...`, then back to what was in use. Raises as `force`."""
    before = current()
    force(name)
    try:
        yield
    finally:
        force(before)
