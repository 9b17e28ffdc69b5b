"""`python -m s2t_ext calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2t_ext.cli.common import (
    check_path,
    load_model,
    one_line_errors,
    say,
    show,
    wrote,
)
from s2t_ext.cli.options import (
    AsJson,
    CalibratedTrigger,
    Dtype,
    Model,
    TeacherCacheDir,
    TeacherModelName,
    UseChatTemplate,
)
from s2t_ext.cli.teachers import check_teacher, is_server, load_teacher
from s2t_ext.runs.given_files import check_output_file, read_prompts

if TYPE_CHECKING:
    from s2t_ext.config import S2TConfig
    from s2t_ext.selectors.selector import Selector

#: Steps above the threshold from which on nothing is said about their number.
_ENOUGH = 100
_HARM_LIMIT = 0.2


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
    judge: Annotated[
        str | None,
        typer.Option(
            help="Larger model that says which choices do harm: find the override margin, too.",
            metavar="TEACHER",
        ),
    ] = None,
    chooser: Annotated[
        str | None,
        typer.Option(
            help="Whose choices: a model or adapter; default: the selector.",
            metavar="TEACHER",
        ),
    ] = None,
    harm_limit: Annotated[
        float | None,
        typer.Option(
            help="With --judge: highest share of the overrides that may do harm, in [0, 1]; "
            "default 0.2.",
        ),
    ] = None,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    as_json: AsJson = False,
) -> None:
    """Find the threshold at which a trigger fires at a given rate on your prompts.

    With --judge, then decode with choices at this threshold, and find the override margin.
    """
    with one_line_errors():
        if selector is not None and not Path(selector).is_dir():
            raise FileNotFoundError(
                f"--selector must be a folder (the threshold is stored in it), got {selector}"
            )
        check_output_file("--output", output)
        texts = read_prompts(prompts)
        if not 0 < rate < 1:
            raise ValueError(f"calibrate: rate must be in (0, 1), got {rate}")
        check_path("--model", model)
        where = (teacher_model_name, teacher_cache_dir)
        _check_margin(selector, judge, chooser, harm_limit, *where)
        if judge is not None:
            check_teacher(judge, *where, model, "--judge")
        if chooser is not None:
            check_teacher(chooser, None, None, model, "--chooser")
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
        if judge is not None:
            who: dict[str, Any] = {"selector": chosen}
            if chooser is not None:
                who = {"teacher": load_teacher(chooser, None, None, tokenizer, dtype, model)}
            config = _choosing(chosen, trigger, found.threshold)
            margin = s2t_ext.calibrate_margin(
                student,
                tokenizer,
                load_teacher(judge, *where, tokenizer, dtype, model),
                texts,
                config,
                harm_limit=_HARM_LIMIT if harm_limit is None else harm_limit,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                use_chat_template=use_chat_template,
                **who,
            )
            content |= margin.to_dict()
            if chosen is not None:
                chosen.decoding = config.with_options(override_margin=margin.margin)
        show(content, as_json)
        _warn_of_few(found.rate, found.tokens)
        if output is not None:
            write_atomically(output, json.dumps(content, indent=2) + "\n")
        if chosen is not None and selector is not None:
            chosen.save_pretrained(selector)
            wrote(selector, f"s2t-ext generate --model {model} --selector {selector} --prompt TEXT")


def _check_margin(
    selector: str | None,
    judge: str | None,
    chooser: str | None,
    harm_limit: float | None,
    model_name: str | None,
    cache_dir: Path | None,
) -> None:
    """Says no to options of the margin that do not fit."""
    if harm_limit is not None and not 0 <= harm_limit <= 1:
        raise ValueError(f"calibrate: harm_limit must be in [0, 1], got {harm_limit}")
    needing = {
        "chooser": chooser,
        "harm-limit": harm_limit,
        "teacher-model-name": model_name,
        "teacher-cache-dir": cache_dir,
    }
    for option, value in needing.items():
        if judge is None and value is not None:
            raise ValueError(f"--judge must be given with --{option}, got --{option} {value}")
    if chooser is not None and is_server(chooser):
        raise ValueError(f"--chooser must be a model or an adapter, got {chooser}")
    if judge is not None and (selector is None) == (chooser is None):
        given = "neither" if chooser is None else "both"
        raise ValueError(f"--selector or --chooser must be given with --judge, got {given}")


def _choosing(selector: Selector | None, trigger: str, threshold: float) -> S2TConfig:
    """How choices are made at this threshold: by the selector, or by another model."""
    from s2t_ext.config import S2TConfig

    if selector is None:
        return S2TConfig(select="teacher", proposer="base", trigger=trigger, threshold=threshold)
    stored = selector.decoding or S2TConfig()
    return stored.with_options(select="local", trigger=trigger, threshold=threshold)


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
