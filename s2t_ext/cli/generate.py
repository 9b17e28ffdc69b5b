"""`python -m s2t_ext generate`: text on a terminal, as it is decided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2t_ext.cli.common import (
    check_path,
    decoding_config,
    load_model,
    logger,
    one_line_errors,
    say,
    wrote,
)
from s2t_ext.cli.options import (
    DECODING,
    OUTPUT,
    Candidates,
    DeviceMap,
    Dtype,
    Model,
    Proposer,
    Select,
    SelectorPath,
    SystemPrompt,
    TeacherCacheDir,
    TeacherModelName,
    TeacherPath,
    Threshold,
    Trigger,
    TrustRemoteCode,
    UseChatTemplate,
    WarmupSteps,
)
from s2t_ext.cli.printer import Printer, summary_line
from s2t_ext.cli.teachers import check_teacher, load_teacher
from s2t_ext.runs.given_files import check_output_file, check_text

if TYPE_CHECKING:
    from s2t_ext.decoding.record import DecodingRecord

NO_SELECTOR = (
    "no --selector: plain decoding (use a trained one, or make one by `s2t-ext collect` and "
    "`s2t-ext distill`; or give a --teacher)"
)


def generate(
    model: Model,
    prompt: Annotated[
        list[str], typer.Option(help="A prompt; give the option again for more.", metavar="TEXT")
    ],
    selector: SelectorPath = None,
    teacher: TeacherPath = None,
    teacher_model_name: TeacherModelName = None,
    teacher_cache_dir: TeacherCacheDir = None,
    select: Select = None,
    trigger: Trigger = None,
    threshold: Threshold = None,
    k: Candidates = None,
    proposer: Proposer = None,
    warmup_steps: WarmupSteps = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Length of the answer, at most.", metavar="N")
    ] = 256,
    do_sample: Annotated[
        bool, typer.Option(help="Sample instead of decoding greedily.", rich_help_panel=DECODING)
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="With --do-sample.", rich_help_panel=DECODING)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="With --do-sample.", rich_help_panel=DECODING)
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="With --do-sample.", rich_help_panel=DECODING)
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Key of all random numbers.", rich_help_panel=DECODING)
    ] = 0,
    dtype: Dtype = "bfloat16",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
    use_chat_template: UseChatTemplate = True,
    system: SystemPrompt = None,
    color: Annotated[
        bool,
        typer.Option(
            help="Mark choices: yellow kept the token, green changed it.", rich_help_panel=OUTPUT
        ),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write every step with its candidates, as JSON lines.", rich_help_panel=OUTPUT
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page that shows every step.", rich_help_panel=OUTPUT),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print texts and totals as JSON, at the end.", rich_help_panel=OUTPUT
        ),
    ] = False,
) -> None:
    """Generate text with Select-to-Think decoding and stream it to the terminal."""
    with one_line_errors():
        sampling = _sampling(do_sample, temperature=temperature, top_p=top_p, top_k=top_k)
        if "" in prompt:
            raise ValueError("--prompt must not be empty, got ''")
        check_text("--prompt", *prompt)
        check_text("--system", system)
        check_output_file("--trace", trace)
        check_output_file("--html", html)
        if system is not None and not use_chat_template:
            raise ValueError("--system must be left out with --no-use-chat-template, got a text")
        config = decoding_config(
            selector, teacher, trigger=trigger, threshold=threshold, k=k, proposer=proposer,
            select=select, warmup_steps=warmup_steps,
        )  # fmt: skip
        check_path("--model", model)
        if teacher is not None:
            check_teacher(teacher, teacher_model_name, teacher_cache_dir, model)
        elif selector is None and trigger is None:
            say(NO_SELECTOR)
        import s2t_ext
        from s2t_ext.hf.prompts import chat_prompt, pad_prompts

        student, tokenizer = load_model(model, dtype, device_map, trust_remote_code)
        chosen = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
        large = None
        if teacher is not None:
            large = load_teacher(
                *(teacher, teacher_model_name, teacher_cache_dir, tokenizer, dtype, model)
            )
        records = []
        for text in prompt:
            printer = Printer(tokenizer, color)
            whole = chat_prompt(tokenizer, text, system) if use_chat_template else text
            output: Any = s2t_ext.generate(
                student,
                pad_prompts(tokenizer, [whole], student),
                s2t=config,
                selector=chosen,
                teacher=large,
                seed=seed,
                on_step=None if as_json else printer.step,
                return_dict_in_generate=True,
                max_new_tokens=max_new_tokens,
                **sampling,
            )
            records.append(output.s2t)
            logger.info("%s step: %s", output.s2t.step_mode, output.s2t.step_reason)
            if not as_json:
                printer.end()
                say(summary_line(output.s2t, set(tokenizer.all_special_ids), config))
        if as_json:
            typer.echo(json.dumps(_results(prompt, records, tokenizer), indent=2))
        if trace is not None:
            _write_trace(trace, records, tokenizer)
        if html is not None:
            _write_pages(html, records, tokenizer, prompt)


def _results(
    prompts: list[str], records: list[DecodingRecord], tokenizer: Any
) -> list[dict[str, Any]]:
    """Prompt, text and totals of every answer."""
    return [
        {
            "prompt": prompt,
            "text": tokenizer.decode(record.rows[0].tokens, skip_special_tokens=True),
            **record.summary(),
        }
        for prompt, record in zip(prompts, records, strict=True)
    ]


def _sampling(do_sample: bool, **given: Any) -> dict[str, Any]:
    """The arguments of `model.generate` for greedy decoding or sampling."""
    set_ones = {name: value for name, value in given.items() if value is not None}
    if set_ones and not do_sample:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in set_ones)
        raise ValueError(f"--do-sample must be given for {names}, got greedy decoding")
    return {"do_sample": do_sample, **set_ones}


def _write_trace(path: Path, records: list[DecodingRecord], tokenizer: Any) -> None:
    """One line a step; `row` is the place of the prompt."""
    from s2t_ext.runs.files import write_atomically

    lines = [
        json.dumps({**step, "row": number}, ensure_ascii=False) + "\n"
        for number, record in enumerate(records)
        for step in record.trace(tokenizer)
    ]
    write_atomically(path, "".join(lines))
    wrote(path)


def _write_pages(
    path: Path, records: list[DecodingRecord], tokenizer: Any, prompts: list[str]
) -> None:
    """A page for every prompt, numbered if there are several."""
    from s2t_ext.runs.files import write_atomically

    for number, (record, text) in enumerate(zip(records, prompts, strict=True)):
        own = path if len(prompts) == 1 else path.with_stem(f"{path.stem}-{number}")
        write_atomically(own, record.to_html(tokenizer, prompt=text))
        wrote(own, "open it in a browser")
