"""`python -m s2t_ext sufficiency`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from s2t_ext.cli.common import load_model, one_line_errors, read_prompts
from s2t_ext.cli.teachers import TEACHER_HELP, load_teacher


def sufficiency(
    model: Annotated[str, typer.Option(help="The student: model folder or hub repository.")],
    teacher: Annotated[str, typer.Option(help=TEACHER_HELP)],
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes if it has one.")],
    task: Annotated[
        str, typer.Option(help="gsm_symbolic, mix, humaneval, a generator, or a .jsonl file.")
    ] = "gsm_symbolic",
    prompts: Annotated[
        Path | None, typer.Option(help="Instead of a task: .jsonl or text file, a prompt a line.")
    ] = None,
    problems: Annotated[int, typer.Option(help="How many problems of the task.")] = 64,
    split: Annotated[str, typer.Option(help="Of the task: held_out, train or all.")] = "all",
    seed: Annotated[int, typer.Option(help="Of the task's problems and the bootstrap.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 512,
    temperature: Annotated[float, typer.Option(help="Of the rollouts; 0 is greedy.")] = 0.0,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time.")] = 8,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")] = True,
    teacher_name: Annotated[str | None, typer.Option(help="The model's name at a server.")] = None,
    teacher_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps a server's answers.")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Draw sufficiency.png (needs matplotlib).")] = True,
) -> None:
    """Measure how often a teacher's token is among a student's own K best, and where."""
    with one_line_errors():
        import s2t_ext
        from s2t_ext.analysis.sufficiency_report import plot_sufficiency
        from s2t_ext.evaluation.tasks import load_task

        if prompts is not None:
            texts = read_prompts(prompts)
        else:
            texts = [p.prompt for p in load_task(task, problems, seed=seed, split=split)]
        student, tokenizer = load_model(model, dtype)
        large = load_teacher(teacher, teacher_name, teacher_cache, tokenizer, dtype)
        start = time.perf_counter()
        report = s2t_ext.measure_sufficiency(
            student,
            tokenizer,
            large,
            texts,
            output,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            temperature=temperature,
            seed=seed,
            use_chat_template=chat,
        )
        seconds = time.perf_counter() - start
        _print(report)
        typer.echo(f"{output / 'report.json'} after {seconds:.0f} s")
        if plot:
            try:
                typer.echo(plot_sufficiency(output))
            except ImportError as error:
                typer.echo(f"no plot: {error} (pip install 's2t_ext[plot]', or --no-plot)")


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    counts, agreement = report["counts"], report["agreement"]
    title = f"{counts['steps']} steps of {counts['problems']} problems"
    table = Table(title=f"{title}; agreement overall {agreement['value']:.3f}")
    table.add_column("steps")
    rows = [(by, share) for by in ("kl", "entropy") for share in report["hit"][by]]
    names = [name for name in report["hit"]["kl"][rows[0][1]] if name.startswith("hit@")]
    for name in ("count", *names):
        table.add_column(name, justify="right")
    for by, share in rows:
        entry = report["hit"][by][share]
        cells = [
            f"{entry[name]['value']:.3f} [{entry[name]['low']:.3f}, {entry[name]['high']:.3f}]"
            for name in names
        ]
        table.add_row(f"top {float(share):.0%} {by}", str(entry["steps"]), *cells)
    Console(width=150).print(table)
