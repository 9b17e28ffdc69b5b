"""`python -m s2t_ext import-groups`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import check_path, load_model, one_line_errors, show, wrote
from s2t_ext.cli.options import AsJson, Dtype


def import_groups(
    paths: Annotated[
        list[Path], typer.Argument(help="JSONL files that the released research code collected.")
    ],
    model: Annotated[str, typer.Option(help="The student they were collected with.")],
    output: Annotated[Path, typer.Option(help="Folder of the collection.")],
    held_out: Annotated[float, typer.Option(help="Share of the problems to set aside.")] = 0.1,
    dtype: Dtype = "bfloat16",
    as_json: AsJson = False,
) -> None:
    """Make a collection of the released research code's groups, packed by trajectory."""
    with one_line_errors():
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"paths must be files, got {path}")
        check_path("--model", model)
        import s2t_ext

        student, _ = load_model(model, dtype)
        collection = s2t_ext.import_groups(student, paths, output, held_out=held_out)
        show(collection.summary(), as_json)
        wrote(output, f"s2t-ext distill --model {model} --collection {output} --output RUN")
