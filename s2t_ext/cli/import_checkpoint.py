"""`python -m s2t_ext import-checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import check_path, load_model, one_line_errors, show, wrote
from s2t_ext.cli.options import AsJson, Dtype


def import_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="PEFT adapter or selector folder.")],
    output: Annotated[Path, typer.Argument(help="Folder to write the selector to.")],
    model: Annotated[str, typer.Option(help="The base model it was trained on.")],
    reserved_ids: Annotated[
        str | None,
        typer.Option(help="Score rows of an adapter: comma-separated ids. Default: found."),
    ] = None,
    dtype: Dtype = "bfloat16",
    as_json: AsJson = False,
) -> None:
    """Convert a foreign checkpoint into a selector folder."""
    with one_line_errors():
        check_path("checkpoint", checkpoint)
        check_path("--model", model)
        ids = None
        if reserved_ids is not None:
            parts = reserved_ids.split(",")
            if not all(part.strip().isdecimal() for part in parts):
                raise ValueError(
                    f"--reserved-ids must be comma-separated numbers, got {reserved_ids}"
                )
            ids = [int(part) for part in parts]
        import s2t_ext

        student, _ = load_model(model, dtype)
        selector = s2t_ext.import_checkpoint(checkpoint, student, output, reserved_ids=ids)
        if as_json:
            show({"selector": str(selector), "folder": str(output)}, as_json)
        else:
            typer.echo(f"{selector} -> {output}")
        wrote(
            output,
            f"s2t-ext calibrate --model {model} --selector {output} --prompts FILE",
        )
