"""`python -m s2t_ext trace`: one prompt, step by step, as a page for the browser."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.common import (
    check_path,
    decoding_config,
    load_model,
    one_line_errors,
    show,
    wrote,
)
from s2t_ext.cli.options import (
    OUTPUT,
    Candidates,
    Dtype,
    Model,
    SelectorPath,
    TeacherModelName,
    TeacherPath,
    Threshold,
    Trigger,
    UseChatTemplate,
)
from s2t_ext.cli.teachers import check_teacher, load_teacher
from s2t_ext.runs.given_files import check_output_file, check_text


def trace(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The prompt.", metavar="TEXT")],
    html: Annotated[Path, typer.Option(help="The page to write: one file, without network.")],
    selector: SelectorPath = None,
    teacher: TeacherPath = None,
    trigger: Trigger = None,
    threshold: Threshold = None,
    k: Candidates = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answer, at most.")] = 256,
    dtype: Dtype = "bfloat16",
    use_chat_template: UseChatTemplate = True,
    teacher_model_name: TeacherModelName = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Also print what the page shows.", rich_help_panel=OUTPUT),
    ] = False,
) -> None:
    """Decode a prompt greedily and with Select-to-Think, and write a page that shows every step."""
    with one_line_errors():
        if (selector is None) == (teacher is None):
            raise ValueError("trace: either --selector or --teacher must be given")
        config = decoding_config(selector, teacher, trigger=trigger, threshold=threshold, k=k)
        check_text("--prompt", prompt)
        check_output_file("--html", html)
        check_path("--model", model)
        if teacher is not None:
            check_teacher(teacher, teacher_model_name, None, model)
        import s2t_ext
        from s2t_ext.analysis.trace import trace as trace_prompt
        from s2t_ext.runs.files import write_atomically
        from s2t_ext.runs.trace_page import trace_page

        student, tokenizer = load_model(model, dtype)
        chosen = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
        guide = None
        if teacher is not None:
            guide = load_teacher(teacher, teacher_model_name, None, tokenizer, dtype, model)
        document = trace_prompt(
            student,
            tokenizer,
            prompt,
            s2t=config,
            selector=chosen,
            teacher=guide,
            max_new_tokens=max_new_tokens,
            use_chat_template=use_chat_template,
            command=shlex.join(["s2t-ext", *sys.argv[1:]]),
        )
        write_atomically(html, trace_page(document))
        if as_json:
            show(document, as_json)
    changed = sum(step["changed"] for step in document["runs"][1]["steps"])
    wrote(f"{html}: {changed} tokens changed", "open it in a browser")
