"""`python -m s2t_ext info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s2t_ext.cli.options import AsJson

if TYPE_CHECKING:
    from s2t_ext.native.info import Info


def info(
    as_json: AsJson = False,
) -> None:
    """Print versions, build flags, CPU instruction sets found and used, and the CUDA state."""
    import s2t_ext

    found = s2t_ext.info()
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(found):
        table.add_row(name, escape(value))
    Console().print(table)


def rows(found: Info) -> list[tuple[str, str]]:
    """The lines of the table: (name, value)."""
    packages = ", ".join(
        f"{name} {version or '(none)'}" for name, version in found.packages.items()
    )
    return [
        ("s2t_ext", f"{found.version} in {found.location}"),
        ("Python", f"{found.python}, {found.system}"),
        ("packages", packages),
        *_native_rows(found),
        *_cpu_rows(found),
        *_cuda_rows(found),
    ]


def _native_rows(found: Info) -> list[tuple[str, str]]:
    native = found.native
    state = f"loaded from {native.path}" if native.loaded else f"not in use\n{native.error}"
    build = native.build
    if build is None:
        return [("_C", state)]
    sanitized = f", sanitizers: {build['sanitize']}" if build.get("sanitize") else ""
    return [
        ("_C", state),
        ("built with", f"{build['compiler']}, torch {build['torch']}{sanitized}"),
        ("runs with", f"Python {build['python']}, torch >= {build['torch_target']} (stable ABI)"),
        ("flags", build["flags"]),
    ]


def _cpu_rows(found: Info) -> list[tuple[str, str]]:
    if not found.native.loaded:
        return [("CPU operators", f"plain PyTorch, {found.cpu.threads} threads")]
    return [
        ("CPU compiled", ", ".join(found.cpu.compiled)),
        ("CPU found", ", ".join(found.cpu.available)),
        ("CPU used", f"{found.cpu.used}, {found.cpu.threads} threads"),
    ]


def _cuda_rows(found: Info) -> list[tuple[str, str]]:
    cuda = found.cuda
    torch_cuda = f"CUDA {cuda.torch_cuda}" if cuda.torch_cuda else "a CPU build"
    built = f"CUDA {cuda.built_with}: {', '.join(cuda.archs)}" if cuda.built_with else "not built"
    return [
        ("CUDA of torch", torch_cuda),
        ("CUDA devices", ", ".join(cuda.devices) or "none"),
        ("_C_cuda", built),
        ("_C_cuda state", "loaded" if cuda.loaded else f"not in use: {cuda.error}"),
    ]
