"""`python -m s2t_ext collect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import load_model, one_line_errors, read_prompts

if TYPE_CHECKING:
    from ..distillation.collection import Prompt


def collect(
    model: Annotated[str, typer.Option(help="The student: model folder or hub repository.")],
    teacher: Annotated[str, typer.Option(help="The teacher: model folder or hub repository.")],
    prompts: Annotated[
        Path,
        typer.Option(
            help='.jsonl ("prompt" or "question"; prompts of the same "group" share a split) or '
            "text file, one prompt a line."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the collection; resumes if it has one.")],
    k: Annotated[int, typer.Option(help="Candidates per labelled step.")] = 16,
    share: Annotated[
        float, typer.Option(help="Share of the steps to keep, those of highest divergence.")
    ] = 0.1,
    rollouts: Annotated[int, typer.Option(help="Per prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the rollouts; 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the rollouts.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Rollouts at a time; a batch is a shard.")] = 8,
    held_out: Annotated[float, typer.Option(help="Share of the prompts to set aside.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Key of the sampling.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")] = True,
) -> None:
    """Roll a student out and have a teacher label the steps where they differ."""
    with one_line_errors():
        from ..distillation.collect import collect as run
        from ..teacher import Teacher

        if not prompts.is_file():
            raise FileNotFoundError(f"--prompts must be a file, got {prompts}")
        chosen = grouped_prompts(prompts)
        student, tokenizer = load_model(model, dtype)
        large, its_tokenizer = load_model(teacher, dtype)
        collection = run(
            student,
            tokenizer,
            Teacher.from_model(large, its_tokenizer),
            chosen,
            output,
            k=k,
            share=share,
            rollouts=rollouts,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            held_out=held_out,
            use_chat_template=chat,
            seed=seed,
        )
        typer.echo(json.dumps(collection.summary(), indent=2))


def grouped_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, with their groups where JSON lines name one."""
    from ..distillation.collection import Prompt

    texts = read_prompts(path)
    if path.suffix != ".jsonl":
        return [Prompt(text) for text in texts]
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [Prompt(t, str(r.get("group", ""))) for t, r in zip(texts, lines, strict=True)]
