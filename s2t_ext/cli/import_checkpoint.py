"""`python -m s2t_ext import-checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import load_model, one_line_errors


def import_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="PEFT adapter or selector folder.")],
    output: Annotated[Path, typer.Argument(help="Folder to write the selector to.")],
    model: Annotated[str, typer.Option(help="The base model it was trained on.")],
    reserved_ids: Annotated[
        str | None,
        typer.Option(help="Score rows of an adapter: comma-separated ids. Default: found."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
) -> None:
    """Convert a foreign checkpoint into a selector folder."""
    with one_line_errors():
        import s2t_ext

        ids = None
        if reserved_ids is not None:
            parts = reserved_ids.split(",")
            if not all(part.strip().isdecimal() for part in parts):
                raise ValueError(
                    f"--reserved-ids must be comma-separated numbers, got {reserved_ids}"
                )
            ids = [int(part) for part in parts]
        student, _ = load_model(model, dtype)
        selector = s2t_ext.import_checkpoint(checkpoint, student, output, reserved_ids=ids)
        typer.echo(f"{selector} -> {output}")
