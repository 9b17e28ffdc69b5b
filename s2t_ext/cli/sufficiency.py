"""`python -m s2t_ext sufficiency`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from s2t_ext.cli.common import (
    check_path,
    load_model,
    one_line_errors,
    plain_table,
    progress,
    say,
    show,
    wrote,
)
from s2t_ext.cli.options import (
    AsJson,
    Dtype,
    Model,
    SplitName,
    TeacherCacheDir,
    TeacherModelName,
    UseChatTemplate,
)
from s2t_ext.cli.resuming import check_output
from s2t_ext.cli.teachers import TEACHER_HELP, check_teacher, load_teacher
from s2t_ext.runs.given_files import read_prompts


def sufficiency(
    model: Model,
    teacher: Annotated[str, typer.Option(help=TEACHER_HELP)],
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes if it has one.")],
    task: Annotated[
        str, typer.Option(help="gsm_symbolic, mix, humaneval, a generator, or a .jsonl file.")
    ] = "gsm_symbolic",
    prompts: Annotated[
        Path | None, typer.Option(help="Instead of a task: .jsonl or text file, a prompt a line.")
    ] = None,
    problems: Annotated[int, typer.Option(help="How many problems of the task.")] = 64,
    split: Annotated[SplitName, typer.Option(help="Of the task: held_out, train or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Of the task's problems and the bootstrap.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 512,
    temperature: Annotated[float, typer.Option(help="Of the rollouts; 0 is greedy.")] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time.")] = 8,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    plot: Annotated[bool, typer.Option(help="Draw sufficiency.png (needs matplotlib).")] = True,
    as_json: AsJson = False,
) -> None:
    """Measure how often a teacher's token is among a student's own K best, and where."""
    with one_line_errors(resumes=True):
        check_path("--model", model)
        check_teacher(teacher, teacher_model_name, teacher_cache_dir, model)
        from s2t_ext.evaluation.tasks import load_task

        if prompts is not None:
            texts = read_prompts(prompts)
        else:
            texts = [p.prompt for p in load_task(task, problems, seed=seed, split=split)]
        settings: dict[str, Any] = dict(
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=temperature,
            seed=seed,
            use_chat_template=use_chat_template,
        )
        described = {**settings, "prompts": texts}
        check_output("measure_sufficiency", output / "config.json", described)
        import s2t_ext
        from s2t_ext.analysis.sufficiency_report import plot_sufficiency

        student, tokenizer = load_model(model, dtype)
        large = load_teacher(
            *(teacher, teacher_model_name, teacher_cache_dir, tokenizer, dtype, model)
        )
        start = time.perf_counter()
        report = s2t_ext.measure_sufficiency(
            student,
            tokenizer,
            large,
            texts,
            output,
            progress=progress(),
            **settings,
        )
        seconds = time.perf_counter() - start
        done = report["counts"]["problems"] if report else 0
        if done < len(texts):
            say(f"{done} of {len(texts)} prompts so far; the process that ends last reports")
            return
        if as_json:
            show(report, as_json)
        else:
            _print(report)
        say(f"{seconds:.0f} s")
        wrote(output / "report.json")
        if plot:
            try:
                wrote(plot_sufficiency(output))
            except ImportError as error:
                say(f"no plot: {error} (pip install 's2t_ext[plot]', or --no-plot)")


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    counts, agreement = report["counts"], report["agreement"]
    title = f"{counts['steps']} steps of {counts['problems']} problems"
    table = plain_table()
    table.add_column("steps", style="bold")
    rows = [(by, share) for by in ("kl", "entropy") for share in report["hit"][by]]
    names = [name for name in report["hit"]["kl"][rows[0][1]] if name.startswith("hit@")]
    for name in ("count", *names):
        table.add_column(name, justify="right")
    for by, share in rows:
        entry = report["hit"][by][share]
        cells = [f"{entry[name]['value']:.3f}" for name in names]
        table.add_row(f"top {float(share):.0%} {by}", str(entry["steps"]), *cells)
    console = Console()
    console.print(
        f"{title}; agreement overall {agreement['value']:.3f} ({agreement['low']:.3f} to "
        f"{agreement['high']:.3f})",
        highlight=False,
    )
    console.print(table)
    console.print("95 % intervals: report.json", style="dim", highlight=False)
