"""`python -m s2t_ext evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from s2t_ext.cli.common import load_model, one_line_errors
from s2t_ext.cli.teachers import TEACHER_HELP, load_teacher


def evaluate(
    model: Annotated[str, typer.Option(help="The student: model folder or hub repository.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; resumes or extends one.")],
    policy: Annotated[
        list[str],
        typer.Option(
            help="greedy, maj@K, teacher, takeover, s2t, s2t-local or s2t-local-pps (the last four "
            "with @LABEL for results of another selector or trigger in the same folder); give the "
            "option again for more."
        ),
    ],
    selector: Annotated[str | None, typer.Option(help="Selector folder or repository.")] = None,
    teacher: Annotated[str | None, typer.Option(help=TEACHER_HELP)] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="gsm_symbolic (default), mix, humaneval, a generator, or a .jsonl file."),
    ] = None,
    problems: Annotated[int | None, typer.Option(help="How many of each task.")] = None,
    split: Annotated[str, typer.Option(help="Of the tasks: held_out, train or all.")] = "held_out",
    seed: Annotated[int, typer.Option(help="Of problems, sampling and intervals.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of an answer.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Problems at a time.")] = 8,
    k: Annotated[int | None, typer.Option(help="Candidates per choice.")] = None,
    teacher_trigger: Annotated[str, typer.Option(help="Of s2t and takeover.")] = "kl",
    teacher_threshold: Annotated[float, typer.Option(help="Of s2t and takeover.")] = 0.88,
    local_trigger: Annotated[
        str | None, typer.Option(help="Of s2t-local; default: the selector's.")
    ] = None,
    local_threshold: Annotated[
        float | None, typer.Option(help="Of s2t-local; default: the selector's.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of maj@K.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Of maj@K.")] = 0.95,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")] = True,
    teacher_name: Annotated[str | None, typer.Option(help="The model's name at a server.")] = None,
    teacher_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps a server's answers.")
    ] = None,
    code_timeout: Annotated[float, typer.Option(help="Seconds for one program.")] = 10.0,
    code_memory_mb: Annotated[int, typer.Option(help="Memory of one program.")] = 1024,
) -> None:
    """Answer and grade problems with several policies, and compare them problem by problem.

    humaneval runs programs that the model wrote, in processes with limits but without a sandbox.
    """
    with one_line_errors():
        import s2t_ext
        from s2t_ext.evaluation.grading import Grader
        from s2t_ext.evaluation.policies import make_policy
        from s2t_ext.evaluation.tasks import load_task

        every = [
            problem
            for name in task or ["gsm_symbolic"]
            for problem in load_task(name, problems, seed=seed, split=split)
        ]
        student, tokenizer = load_model(model, dtype)
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
        large = None
        if teacher is not None:
            large = load_teacher(teacher, teacher_name, teacher_cache, tokenizer, dtype)
        s2t_ext.evaluate(
            student,
            tokenizer,
            every,
            output,
            policies=[make_policy(name, selector=chosen, **options) for name in policy],
            teacher=large,
            selector=chosen,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
            use_chat_template=chat,
            grader=Grader(code_timeout=code_timeout, code_memory=code_memory_mb << 20),
        )
        typer.echo((output / "summary.md").read_text())
