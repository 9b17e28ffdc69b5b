"""`python -m s2t_ext frontier`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s2t_ext.cli.common import (
    check_path,
    load_model,
    one_line_errors,
    plain_table,
    progress,
    show,
    wrote,
)
from s2t_ext.cli.options import (
    AsJson,
    Dtype,
    Model,
    SelectorPath,
    SplitName,
    TeacherCacheDir,
    TeacherModelName,
    TeacherPath,
    UseChatTemplate,
)
from s2t_ext.cli.teachers import check_teacher, load_teacher


def frontier(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes or extends one.")],
    teacher: TeacherPath = None,
    selector: SelectorPath = None,
    task: Annotated[
        str, typer.Option(help="gsm_symbolic, mix, humaneval, a generator, or a .jsonl file.")
    ] = "gsm_symbolic",
    problems: Annotated[int | None, typer.Option(help="How many of the task.")] = None,
    split: Annotated[
        SplitName, typer.Option(help="Of the task: held_out, train or all.")
    ] = "held_out",
    trigger: Annotated[
        list[str] | None,
        typer.Option(
            help="entropy (default), margin, head, kl or random; give the option again for more."
        ),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Share of the steps, again for more; default: 0.05, 0.1, 0.2, 0.3."),
    ] = None,
    chooser: Annotated[
        list[str] | None,
        typer.Option(
            help="Who chooses: the teacher (s2t), the selector (s2t-local); default: those given."
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="Evaluated beside the points, as of `evaluate`; default: greedy."),
    ] = None,
    calibration_problems: Annotated[
        int, typer.Option(help="Prompts of the train split that thresholds are taken from.")
    ] = 32,
    seed: Annotated[int, typer.Option(help="Of problems, sampling and intervals.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Problems at a time.")] = 8,
    k: Annotated[int | None, typer.Option(help="Candidates per choice.")] = None,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy against cost over triggers and rates, on one task: which operating point to pick.

    Of a .jsonl file, which has no train split, thresholds are taken from the first prompts; no
    answer is looked at.
    """
    with one_line_errors(resumes=True):
        if teacher is None and selector is None:
            raise ValueError("one of --teacher and --selector must be given, got none")
        _check("--trigger", trigger or [], TRIGGERS)
        _check("--chooser", chooser or [], ("s2t", "s2t-local"))
        check_path("--model", model)
        if teacher is not None:
            check_teacher(teacher, teacher_model_name, teacher_cache_dir, model)
        import s2t_ext
        from s2t_ext.evaluation.frontier_report import frontier_rows
        from s2t_ext.evaluation.tasks import SEEDS

        some = s2t_ext.load_task(task, problems, seed=seed, split=split)
        if task.endswith(".jsonl") or task == "humaneval":
            calibration = some[:calibration_problems]
        else:
            # Another seed, so that the problems of a train split are not calibrated on.
            other = seed if split == "held_out" else (seed + 1) % SEEDS
            calibration = s2t_ext.load_task(task, calibration_problems, seed=other, split="train")
        student, tokenizer = load_model(model, dtype)
        large = None
        if teacher is not None:
            large = load_teacher(
                *(teacher, teacher_model_name, teacher_cache_dir, tokenizer, dtype, model)
            )
        asked = {"triggers": trigger, "rates": rate, "choosers": chooser, "beside": policy}
        options: dict[str, Any] = {name: value for name, value in asked.items() if value}
        summary = s2t_ext.frontier(
            student,
            tokenizer,
            some,
            output,
            calibration_prompts=[problem.prompt for problem in calibration],
            teacher=large,
            selector=s2t_ext.Selector.from_pretrained(selector, student) if selector else None,
            k=k,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
            use_chat_template=use_chat_template,
            progress=progress(),
            **options,
        )
        if as_json:
            show(summary, as_json)
        else:
            _print(frontier_rows(summary))
        wrote(output / "frontier.md")


#: Those of `s2t_ext.triggers` that have a rate, without loading a model library.
TRIGGERS = ("entropy", "margin", "head", "kl", "random")


def _check(option: str, values: list[str], allowed: tuple[str, ...]) -> None:
    for value in values:
        if value not in allowed:
            raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value}")


def _print(rows: list[dict[str, Any]]) -> None:
    """The table of frontier.md, as far as 80 columns hold it."""
    from rich.console import Console

    table = plain_table()
    table.add_column("policy", style="bold", overflow="fold")
    for name in ("chosen", "accuracy (95 %)", "teacher", "tokens", "seconds", "won", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        accuracy = row["accuracy"]
        table.add_row(
            row["policy"],
            f"{row['trigger_rate']:.1%}",
            f"{accuracy['value']:.3f} ({accuracy['low']:.2f} to {accuracy['high']:.2f})",
            f"{row['teacher_steps']:.0f}",
            f"{row['tokens_through_model']:.0f}",
            f"{row['seconds']:.1f}",
            *(str(row.get(name, "")) for name in ("wins", "losses")),
        )
    Console().print(table)
