"""`python -m s2t_ext chat`: a conversation on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from s2t_ext.cli.common import check_path, decoding_config, load_model, one_line_errors, say
from s2t_ext.cli.options import (
    OUTPUT,
    Candidates,
    DeviceMap,
    Dtype,
    Model,
    SelectorPath,
    SystemPrompt,
    TeacherCacheDir,
    TeacherModelName,
    TeacherPath,
    Threshold,
    Trigger,
    TrustRemoteCode,
)
from s2t_ext.cli.printer import Printer, summary_line
from s2t_ext.cli.teachers import check_teacher, load_teacher
from s2t_ext.runs.given_files import check_text

if TYPE_CHECKING:
    from s2t_ext.cli.conversation import Conversation
    from s2t_ext.decoding.record import DecodingRecord

HELP = "/greedy /local /s2t: how to decode; /why: the last choices; /new: start again; /quit"


def chat(
    model: Model,
    selector: SelectorPath = None,
    teacher: TeacherPath = None,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    trigger: Trigger = None,
    threshold: Threshold = None,
    k: Candidates = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Length of an answer, at most.", metavar="N")
    ] = 512,
    dtype: Dtype = "bfloat16",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
    system: SystemPrompt = None,
    color: Annotated[
        bool | None,
        typer.Option(
            help="Mark choices: yellow kept the token, green changed it. Default: on a terminal.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Talk with a model; switch between greedy, S2T-LOCAL and S2T while talking.

    Lines that begin with a slash are commands: /greedy, /local (with a selector), /s2t (with a
    teacher), /why shows the candidates of the last choices, /new starts again, /quit ends.
    """
    with one_line_errors():
        local = None
        if selector is not None:
            local = decoding_config(selector, None, trigger=trigger, threshold=threshold, k=k)
        elif any(value is not None for value in (trigger, threshold, k)):
            raise ValueError(
                "--selector must be given for --trigger, --threshold and --k, got none"
            )
        check_text("--system", system)
        check_path("--model", model)
        if teacher is not None:
            check_teacher(teacher, teacher_model_name, teacher_cache_dir, model)
        import s2t_ext
        from s2t_ext.cli.conversation import Conversation, ways_to_decode

        student, tokenizer = load_model(model, dtype, device_map, trust_remote_code)
        ways = ways_to_decode(local, teacher is not None)
        conversation = Conversation(
            student,
            tokenizer,
            ways,
            list(ways)[-1],
            selector=s2t_ext.Selector.from_pretrained(selector, student) if selector else None,
            teacher=load_teacher(
                *(teacher, teacher_model_name, teacher_cache_dir, tokenizer, dtype, model)
            )
            if teacher
            else None,
            system=system,
            max_new_tokens=max_new_tokens,
        )
        talk(conversation, sys.stdout.isatty() if color is None else color)


def talk(conversation: Conversation, color: bool) -> None:
    """Reads turns and commands from standard input until it ends."""
    say(f"{conversation.mode} decoding; {HELP}")
    record = None
    special = set(conversation.tokenizer.all_special_ids)
    for line in _lines():
        if line.startswith("/"):
            if line == "/quit":
                return
            _command(conversation, line, record)
            continue
        printer = Printer(conversation.tokenizer, color)
        try:
            record = conversation.answer(line, printer.step)
        except KeyboardInterrupt:  # ends this answer, not the conversation
            printer.end()
            say("stopped; this turn is forgotten")
            continue
        printer.end()
        config = conversation.configs[conversation.mode]
        say(f"{conversation.mode} {summary_line(record, special, config)}")


def _lines() -> Iterator[str]:
    """What is typed, without empty lines."""
    if sys.stdin.isatty():
        import readline  # noqa: F401  (lines can be edited, and come back with the arrow keys)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line:
            yield line


def _command(conversation: Conversation, line: str, record: DecodingRecord | None) -> None:
    name = line[1:]
    if name in conversation.configs:
        conversation.mode = name
        say(f"{name} decoding")
    elif name in ("local", "s2t"):
        say(f"/{name} needs a {'selector' if name == 'local' else 'teacher'}: start with one")
    elif name == "new":
        conversation.reset()
        say("a new conversation")
    elif name == "why":
        _why(conversation, record)
    else:
        say(HELP)


def _why(conversation: Conversation, record: DecodingRecord | None) -> None:
    """The candidates of every choice of the last answer, best first."""
    steps = [] if record is None else record.trace(conversation.tokenizer)
    chosen = [step for step in steps if step["triggered"]]
    if not chosen:
        say("no choice was made")
    for step in chosen:
        ranked = sorted(
            (c for c in step["candidates"] if c["score"] is not None),
            key=lambda candidate: -candidate["score"],
        )
        shown = ", ".join(f"{c['text']!r} {c['score']:.2f}" for c in ranked[:5])
        mark = "changed" if step["changed"] else "kept"
        say(f"step {step['step']}, {step['text']!r} {mark}: {shown}")
