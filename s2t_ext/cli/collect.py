"""`python -m s2t_ext collect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s2t_ext.cli.common import load_model, one_line_errors, read_prompts
from s2t_ext.cli.teachers import TEACHER_HELP, load_teacher

if TYPE_CHECKING:
    from s2t_ext.runs.prompts import Prompt


def collect(
    model: Annotated[str, typer.Option(help="The student: model folder or hub repository.")],
    teacher: Annotated[str, typer.Option(help=TEACHER_HELP)],
    output: Annotated[Path, typer.Option(help="Folder of the collection; resumes if it has one.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='.jsonl ("prompt" or "question"; prompts of the same "group" share a split) or '
            "text file, one prompt a line."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Instead of --prompts: train split of gsm_symbolic, mix, a generator."),
    ] = None,
    problems: Annotated[int, typer.Option(help="How many of the task.")] = 300,
    k: Annotated[int, typer.Option(help="Candidates per labelled step.")] = 16,
    share: Annotated[
        float, typer.Option(help="Share of a rollout's steps to keep; of `either`, twice at most.")
    ] = 0.1,
    steps: Annotated[
        str,
        typer.Option(
            help="Which: those of highest divergence (kl); those where the student is least "
            "certain, at which an entropy trigger fires (entropy); or either."
        ),
    ] = "kl",
    rollouts: Annotated[int, typer.Option(help="Per prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the rollouts; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time; a batch is a shard.")] = 8,
    held_out: Annotated[float, typer.Option(help="Share of the prompts to set aside.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the task's problems and of the sampling.")] = 0,
    rollouts_from: Annotated[
        Path | None,
        typer.Option(
            help="Finished collection whose rollouts are labelled instead of decoding: of the same "
            "student, prompts, rollouts, temperature, length, seed and chat option."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")] = True,
    teacher_name: Annotated[str | None, typer.Option(help="The model's name at a server.")] = None,
    teacher_cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps a server's answers.")
    ] = None,
) -> None:
    """Roll a student out and have a teacher label the steps where they differ."""
    with one_line_errors():
        from s2t_ext.distillation.data.collect import collect as run

        if (prompts is None) == (task is None):
            raise ValueError("one of --prompts and --task must be given, got both or none")
        if prompts is not None and not prompts.is_file():
            raise FileNotFoundError(f"--prompts must be a file, got {prompts}")
        if prompts is not None:
            chosen = grouped_prompts(prompts)
        else:
            chosen = task_prompts(str(task), problems, seed)
        student, tokenizer = load_model(model, dtype)
        collection = run(
            student,
            tokenizer,
            load_teacher(teacher, teacher_name, teacher_cache, tokenizer, dtype),
            chosen,
            output,
            k=k,
            share=share,
            steps=steps,
            rollouts=rollouts,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            held_out=held_out,
            use_chat_template=chat,
            seed=seed,
            rollouts_from=rollouts_from,
        )
        typer.echo(json.dumps(collection.summary(), indent=2))


def task_prompts(task: str, count: int, seed: int) -> list[Prompt]:
    """Prompts of a task's train split, with their groups (templates)."""
    from s2t_ext.evaluation.tasks import load_task
    from s2t_ext.runs.prompts import Prompt

    found = load_task(task, count, seed=seed, split="train")
    return [Prompt(problem.prompt, problem.group) for problem in found]


def grouped_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, with their groups where JSON lines name one."""
    from s2t_ext.runs.prompts import Prompt

    texts = read_prompts(path)
    if path.suffix != ".jsonl":
        return [Prompt(text) for text in texts]
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return [
        Prompt(t, "" if r.get("group") is None else str(r["group"]))
        for t, r in zip(texts, lines, strict=True)
    ]
