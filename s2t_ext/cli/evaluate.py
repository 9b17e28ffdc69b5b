"""`python -m s2t_ext evaluate`."""

from __future__ import annotations

import re
from contextlib import ExitStack
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
from s2t_ext.cli.engines import (
    Engine,
    EngineOptions,
    check_engine,
    load_engine,
    longest_prompt,
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
    TriggerName,
    UseChatTemplate,
)
from s2t_ext.cli.resuming import check_output
from s2t_ext.cli.teachers import check_teacher, load_teacher


def evaluate(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes or extends one.")],
    policy: Annotated[
        list[str],
        typer.Option(
            help="greedy, adapted, maj@K, teacher, takeover, s2t, s2t-local or s2t-local-pps (the "
            "last five with @LABEL for results of another teacher, selector or trigger in the same "
            "folder, the last four with options of their own: "
            "s2t@LABEL:trigger=entropy,threshold=0.43); give the option again for more."
        ),
    ],
    selector: SelectorPath = None,
    teacher: TeacherPath = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="gsm_symbolic (default), mix, humaneval, a generator, or a .jsonl file."),
    ] = None,
    problems: Annotated[int | None, typer.Option(help="How many of each task.")] = None,
    split: Annotated[
        SplitName, typer.Option(help="Of the tasks: held_out, train or all.")
    ] = "held_out",
    seed: Annotated[int, typer.Option(help="Of problems, sampling and intervals.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Problems at a time.")] = 8,
    k: Annotated[int | None, typer.Option(help="Candidates per choice.")] = None,
    teacher_trigger: Annotated[TriggerName, typer.Option(help="Of s2t and takeover.")] = "kl",
    teacher_threshold: Annotated[float, typer.Option(help="Of s2t and takeover.")] = 0.88,
    local_trigger: Annotated[
        TriggerName | None, typer.Option(help="Of s2t-local; default: the selector's.")
    ] = None,
    local_threshold: Annotated[
        float | None, typer.Option(help="Of s2t-local; default: the selector's.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of maj@K.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Of maj@K.")] = 0.95,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    engine: Engine = "transformers",
    engine_options: EngineOptions = None,
    code_timeout: Annotated[float, typer.Option(help="Seconds for one program.")] = 10.0,
    code_memory_mb: Annotated[int, typer.Option(help="Memory of one program.")] = 1024,
    as_json: AsJson = False,
) -> None:
    """Answer and grade problems with several policies, and compare them problem by problem.

    humaneval runs programs that the model wrote, in processes with limits but without a sandbox.
    """
    with one_line_errors(resumes=True), ExitStack() as engines:
        _check_policies(policy, selector, teacher)
        check_path("--model", model)
        arguments = [check_engine(engine, engine_options, name) for name in policy][0]
        if teacher is not None:
            check_teacher(teacher, teacher_model_name, teacher_cache_dir, model)
        from s2t_ext.evaluation.grading import Grader
        from s2t_ext.evaluation.tasks import load_task

        every = [
            problem
            for name in task or ["gsm_symbolic"]
            for problem in load_task(name, problems, seed=seed, split=split)
        ]
        settings: dict[str, Any] = dict(
            max_new_tokens=max_new_tokens, seed=seed, use_chat_template=use_chat_template
        )
        check_output("evaluate", output / "config.json", {**settings, "problems": len(every)})
        Grader.check(every)  # before the models are loaded
        import s2t_ext
        from s2t_ext.evaluation.policies import make_policy

        student, tokenizer = load_model(model, dtype)
        llm = None
        if engine == "vllm":
            length = longest_prompt(tokenizer, [p.prompt for p in every], use_chat_template)
            length += max_new_tokens
            llm = load_engine(engines, model, dtype, length, arguments, selector)
        chosen = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
        options: dict[str, Any] = dict(
            k=k,
            teacher_trigger=teacher_trigger,
            teacher_threshold=teacher_threshold,
            local_trigger=local_trigger,
            local_threshold=local_threshold,
            temperature=temperature,
            top_p=top_p,
        )
        where = (teacher_model_name, teacher_cache_dir, tokenizer, dtype, model)
        large = load_teacher(teacher, *where) if teacher is not None else None
        policies = [make_policy(name, selector=chosen, **options) for name in policy]
        task_run: tuple[Any, ...] = (student, tokenizer, every, output)
        summary = s2t_ext.evaluate(
            *task_run,
            policies=policies,
            teacher=large,
            selector=chosen,
            batch_size=batch_size,
            engine=llm,
            progress=progress(),
            **settings,
            grader=Grader(code_timeout=code_timeout, code_memory=code_memory_mb << 20),
        )
        done = {n for n, e in summary["policies"].items() if e["problems"] == len(every)}
        if not done.issuperset(one.name for one in policies):
            say("this process has done its share; the one that ends last reports")
            return
        _print(summary, as_json)
        wrote(output / "summary.md")


#: As `s2t_ext.evaluation.policies.POLICIES`, without loading a model library.
POLICIES = ("greedy", "adapted", "maj", "teacher", "takeover", "s2t", "s2t-local", "s2t-local-pps")


def _check_policies(names: list[str], selector: str | None, teacher: str | None) -> None:
    """Says no to wrong names, and to policies without what they need."""
    for name in names:
        kind = re.split("[@:]", name)[0]
        if kind not in POLICIES:
            known = "greedy, adapted, maj@K, " + ", ".join(POLICIES[3:])
            raise ValueError(f"--policy must be one of {known}, got {name}")
        if (kind.startswith("s2t-local") or kind == "adapted") and selector is None:
            raise ValueError(f"--selector must be given for --policy {name}, got none")
        if kind in ("teacher", "takeover", "s2t") and teacher is None:
            raise ValueError(f"--teacher must be given for --policy {name}, got none")


def _print(summary: dict[str, Any], as_json: bool) -> None:
    """JSON, or the tables of summary.md, as far as 80 columns hold them."""
    if as_json:
        show(summary, as_json)
        return
    from rich.console import Console

    console = Console()
    table = plain_table()
    table.add_column("policy", style="bold", overflow="fold")
    for name in ("accuracy (95 %)", "correct", "tokens", "chosen", "changed", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, entry in summary["policies"].items():
        accuracy = entry["accuracy"]
        table.add_row(
            name,
            f"{accuracy['value']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})",
            f"{entry['correct']}/{entry['problems']}",
            f"{entry['tokens']:.0f}",
            f"{entry['trigger_rate']:.1%}",
            f"{entry['change_rate']:.1%}",
            f"{entry['seconds']:.1f}",
        )
    console.print(table)
    if summary["comparisons"]:
        table = plain_table()
        table.add_column("comparison", style="bold", overflow="fold")
        for name in ("won", "lost", "tied", "McNemar p"):
            table.add_column(name, justify="right", no_wrap=True)
        for pair in summary["comparisons"]:
            counts = (str(pair[name]) for name in ("wins", "losses", "ties"))
            names = f"{pair['first']} against {pair['second']}"
            table.add_row(names, *counts, f"{pair['p_value']:.3f}")
        console.print()
        console.print(table)
    for name, entry in summary["policies"].items():
        if entry["truncated"] > 0:
            say(
                f"{name}: {entry['truncated']:.0%} of the answers were cut off before their end; "
                "they are graded as they stand (give a larger --max-new-tokens)"
            )
