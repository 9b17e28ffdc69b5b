"""`python -m s2t_ext export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import check_path, load_model, one_line_errors, show, wrote
from s2t_ext.cli.options import AsJson, Dtype


def export(
    selector: Annotated[str, typer.Argument(help="Selector folder or hub repository.")],
    output: Annotated[Path, typer.Argument(help="Folder to write to.")],
    model: Annotated[
        str,
        typer.Option(help="What it scores with: the student, or RUN/model after --method full."),
    ],
    merge: Annotated[
        bool,
        typer.Option(
            help="Write the weights too, with the adapter folded in; otherwise the adapter alone."
        ),
    ] = True,
    push_to_hub: Annotated[
        str | None,
        typer.Option(help="Also upload the folder to this repository, created if missing."),
    ] = None,
    private: Annotated[bool, typer.Option(help="Create that repository as a private one.")] = False,
    dtype: Dtype = "bfloat16",
    as_json: AsJson = False,
) -> None:
    """Write a model folder that serves anywhere, with the selector's files beside the weights."""
    with one_line_errors():
        check_path("selector", selector)
        check_path("--model", model)
        import s2t_ext

        base, tokenizer = load_model(model, dtype)
        folder = s2t_ext.export(
            selector,
            base,
            tokenizer,
            output,
            merge=merge,
            push_to_hub=push_to_hub,
            private=private,
        )
        if as_json:
            show({"selector": selector, "folder": str(folder), "merged": merge}, as_json)
        else:
            typer.echo(f"{selector} -> {folder}")
        serve = f"transformers serve {folder} --trust-remote-code"
        wrote(folder, serve if merge else None)
