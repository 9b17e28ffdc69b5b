"""`python -m s2t_ext calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import load_model, one_line_errors, read_prompts


def calibrate(
    model: Annotated[str, typer.Option(help="Model folder or hub repository.")],
    prompts: Annotated[Path, typer.Option(help=".jsonl or text file, one prompt a line.")],
    selector: Annotated[
        str | None, typer.Option(help="Selector folder; the threshold is stored in it.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Share of steps that should trigger.")] = 0.01,
    trigger: Annotated[str, typer.Option(help="entropy, margin or head.")] = "entropy",
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time.")] = 8,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")] = True,
) -> None:
    """Find the threshold at which a trigger fires at a given rate on your prompts."""
    with one_line_errors():
        import s2t_ext

        if not prompts.is_file():
            raise FileNotFoundError(f"--prompts must be a file, got {prompts}")
        if selector is not None and not Path(selector).is_dir():
            raise FileNotFoundError(
                f"--selector must be a folder (the threshold is stored in it), got {selector}"
            )
        texts = read_prompts(prompts)
        student, tokenizer = load_model(model, dtype)
        chosen = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
        found = s2t_ext.calibrate(
            student,
            tokenizer,
            texts,
            rate=rate,
            trigger=trigger,
            selector=chosen,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            use_chat_template=chat,
        )
        if chosen is not None and selector is not None:
            chosen.save_pretrained(selector)
        typer.echo(json.dumps({"trigger": trigger, **found.to_dict()}, indent=2))
