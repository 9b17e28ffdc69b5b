"""`python -m s2t_ext adapt`: from prompts to a selector and a verdict, by the other commands."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from s2t_ext.cli.adapting.recipe import read_recipe
from s2t_ext.cli.adapting.stages import Adaptation
from s2t_ext.cli.common import one_line_errors, show
from s2t_ext.cli.options import (
    AsJson,
    DtypeName,
    LearnFrom,
    TeacherCacheDir,
    TeacherModelName,
    TeacherPath,
)


def adapt(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="The student: model folder or hub repository.")
    ] = None,
    teacher: TeacherPath = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of everything; resumes if it has a run.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Recipe in YAML: these options, and those of every command it runs."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='Your task: .jsonl of {"question", "answer"}, a part of which is kept for the '
            "test; or prompts as of `collect`, with --test or without answers."
        ),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help='Problems of the test: .jsonl of {"question", "answer"}.')
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Instead of --prompts: gsm_symbolic, mix, a generator."),
    ] = None,
    problems: Annotated[
        int | None, typer.Option(help="Prompts of the task to learn from; default: 300.")
    ] = None,
    test_problems: Annotated[
        int | None, typer.Option(help="Problems of the test; default: 100 of a task, else all.")
    ] = None,
    learn_from: Annotated[
        LearnFrom | None,
        typer.Option(
            help="Whole answers of the teacher that the answer key confirms (answers), or its "
            "labels of the student's steps (labels); default: answers where they are known."
        ),
    ] = None,
    trigger_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of steps to choose at, and to label; default: 0.3 with answers, 0.2 with "
            "labels."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Length of an answer; default: 512.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything; default: 0.")] = None,
    dtype: Annotated[
        DtypeName | None, typer.Option(help="Of the weights; default: bfloat16.")
    ] = None,
    use_chat_template: Annotated[
        bool | None, typer.Option(help="Wrap prompts in the chat template; default: yes.")
    ] = None,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Adapt a model to your task: collect, distill, calibrate, evaluate, and say what to use.

    One command that resumes where it was stopped. A recipe reaches every option of the commands.
    """
    given = {k: v for k, v in locals().items() if k not in ("context", "config", "as_json")}
    with one_line_errors(resumes=True):
        shared, sections = read_recipe(config)
        shared |= {name: value for name, value in given.items() if value is not None}
        run = Adaptation.of(context, shared, sections, own=set(given))
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            run.all_stages()
        summary, sentence = run.verdict()
        if as_json:
            show({"summary": summary, "recommendation": sentence}, as_json)
        else:
            typer.echo(f"\n{sentence}")
