"""`python -m s2t_ext trace`: one prompt, step by step, as a page for the browser."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from s2t_ext.cli.common import errors, load_model, one_line_errors
from s2t_ext.cli.teachers import TEACHER_HELP, load_teacher


def trace(
    model: Annotated[str, typer.Option(help="The student: model folder or hub repository.")],
    prompt: Annotated[str, typer.Option(help="The prompt.")],
    html: Annotated[Path, typer.Option(help="The page to write: one file, without network.")],
    selector: Annotated[str | None, typer.Option(help="Selector folder or hub repository.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help=f"Chooses instead of a selector. {TEACHER_HELP}")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(help="entropy, margin, head, kl, random or always.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Default: the selector's calibrated threshold.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Candidates per step.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answer, at most.")] = 256,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap the prompt in the chat template.")] = True,
    teacher_name: Annotated[str | None, typer.Option(help="The model's name at a server.")] = None,
    steps: Annotated[
        Path | None, typer.Option("--json", help="Also write what the page shows as JSON.")
    ] = None,
) -> None:
    """Decode a prompt greedily and with Select-to-Think, and write a page that shows every step."""
    with one_line_errors():
        if (selector is None) == (teacher is None):
            raise ValueError("trace: either --selector or --teacher must be given")
        import dataclasses

        import s2t_ext
        from s2t_ext.analysis.trace import trace as trace_prompt
        from s2t_ext.runs.files import write_atomically
        from s2t_ext.runs.trace_page import trace_page

        student, tokenizer = load_model(model, dtype)
        chosen = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
        guide = None
        if teacher is not None:
            guide = load_teacher(teacher, teacher_name, None, tokenizer, dtype)
        base = chosen.decoding if chosen is not None else None
        config = base or s2t_ext.S2TConfig(select="local" if chosen else "teacher")
        given = {"trigger": trigger, "threshold": threshold, "k": k}
        changes: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
        config = dataclasses.replace(config, **changes)
        document = trace_prompt(
            student,
            tokenizer,
            prompt,
            s2t=config,
            selector=chosen,
            teacher=guide,
            max_new_tokens=max_new_tokens,
            use_chat_template=chat,
            command=shlex.join(["python", "-m", "s2t_ext", *sys.argv[1:]]),
        )
        write_atomically(html, trace_page(document))
        if steps is not None:
            write_atomically(steps, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    changed = sum(step["changed"] for step in document["runs"][1]["steps"])
    errors.print(f"wrote {html}: {changed} tokens changed; open it in a browser", markup=False)
