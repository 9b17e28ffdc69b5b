"""`python -m s2t_ext calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import (
    check_path,
    load_model,
    one_line_errors,
    read_prompts,
    say,
    show,
    wrote,
)
from s2t_ext.cli.options import AsJson, CalibratedTrigger, Dtype, Model, UseChatTemplate

#: Steps above the threshold from which on nothing is said about their number.
_ENOUGH = 100


def calibrate(
    model: Model,
    prompts: Annotated[Path, typer.Option(help=".jsonl or text file, one prompt a line.")],
    selector: Annotated[
        str | None, typer.Option(help="Selector folder; the threshold is stored in it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File that the threshold is written to, as JSON.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Share of steps that should trigger.")] = 0.01,
    trigger: Annotated[CalibratedTrigger, typer.Option(help="Whose threshold.")] = "entropy",
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 256,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time.")] = 8,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    as_json: AsJson = False,
) -> None:
    """Find the threshold at which a trigger fires at a given rate on your prompts."""
    with one_line_errors():
        if selector is not None and not Path(selector).is_dir():
            raise FileNotFoundError(
                f"--selector must be a folder (the threshold is stored in it), got {selector}"
            )
        texts = read_prompts(prompts)
        if not 0 < rate < 1:
            raise ValueError(f"calibrate: rate must be in (0, 1), got {rate}")
        check_path("--model", model)
        import s2t_ext
        from s2t_ext.runs.files import write_atomically

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
            use_chat_template=use_chat_template,
        )
        content = {"trigger": trigger, **found.to_dict()}
        show(content, as_json)
        _warn_of_few(found.rate, found.tokens)
        if output is not None:
            write_atomically(output, json.dumps(content, indent=2) + "\n")
        if chosen is not None and selector is not None:
            chosen.save_pretrained(selector)
            wrote(selector, f"s2t-ext generate --model {model} --selector {selector} --prompt TEXT")


def _warn_of_few(rate: float, tokens: int) -> None:
    """A rate of few steps is uncertain: new prompts may trigger at quite another one."""
    from s2t_ext.runs.statistics import wilson

    fired = round(rate * tokens)
    if fired < _ENOUGH:
        share = wilson(fired, tokens)
        say(
            f"{fired} of {tokens} steps fire, {share.value:.1%} (95 % interval {share.low:.1%} to "
            f"{share.high:.1%}): more prompts make the threshold steadier"
        )
