"""`python -m s2t_ext generate`: text on a terminal, as it is decided."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2t_ext.cli.common import errors, load_model, one_line_errors

if TYPE_CHECKING:
    from s2t_ext.config import S2TConfig
    from s2t_ext.decoding.record import StepEvent
    from s2t_ext.selectors.selector import Selector

TRIGGERED = "\033[43;30m"  # a choice was made and kept the model's favourite
CHANGED = "\033[42;30m"  # a choice was made and changed the token
RESET = "\033[0m"


def generate(
    model: Annotated[str, typer.Option(help="Model folder or hub repository.")],
    prompt: Annotated[list[str], typer.Option(help="A prompt; give the option again for more.")],
    selector: Annotated[str | None, typer.Option(help="Selector folder or hub repository.")] = None,
    trigger: Annotated[
        str | None, typer.Option(help="entropy, margin, head, random, always or never.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Default: the selector's calibrated threshold.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Candidates per triggered step.")] = None,
    proposer: Annotated[
        str | None, typer.Option(help="adapted, or base for proposal-preserving selection.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answer, at most.")] = 256,
    sample: Annotated[bool, typer.Option(help="Sample instead of decoding greedily.")] = False,
    temperature: Annotated[float, typer.Option(help="With --sample.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Key of all random numbers.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    chat: Annotated[bool, typer.Option(help="Wrap prompts in the chat template.")] = True,
    color: Annotated[
        bool, typer.Option(help="Mark choices: yellow kept the token, green changed it.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write what happened at every step as JSON lines.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page that shows every step, for any browser.")
    ] = None,
) -> None:
    """Generate text with Select-to-Think decoding and stream it to the terminal."""
    with one_line_errors():
        import s2t_ext

        student, tokenizer = load_model(model, dtype)
        chosen = s2t_ext.Selector.from_pretrained(selector, student) if selector else None
        config = _config(chosen, trigger=trigger, threshold=threshold, k=k, proposer=proposer)
        for number, text in enumerate(prompt):
            printer = _Printer(tokenizer, color)
            output = _run(
                student, tokenizer, text, chat, config, chosen, printer, seed,
                max_new_tokens=max_new_tokens, do_sample=sample,
                **({"temperature": temperature} if sample else {}),
            )  # fmt: skip
            printer.end()
            summary = output.s2t.summary()
            line = _one_line(summary)
            errors.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
            if trace is not None:
                output.s2t.write_jsonl(_numbered(trace, number, len(prompt)))
            if html is not None:
                path = _numbered(html, number, len(prompt))
                path.write_text(output.s2t.to_html(tokenizer, prompt=text), "utf-8")
                errors.print(f"wrote {path}", style="dim", markup=False)


def _numbered(path: Path, number: int, count: int) -> Path:
    """The file of one of several prompts."""
    return path if count == 1 else path.with_stem(f"{path.stem}-{number}")


def _config(selector: Selector | None, **options: Any) -> S2TConfig:
    import dataclasses

    from s2t_ext.config import S2TConfig

    base = (selector.decoding if selector is not None else None) or S2TConfig()
    if selector is None and options["trigger"] is None:
        options["trigger"] = "never"  # nothing to select with: plain decoding
    return dataclasses.replace(base, **{n: v for n, v in options.items() if v is not None})


def _run(
    model: Any,
    tokenizer: Any,
    text: str,
    chat: bool,
    config: S2TConfig,
    selector: Selector | None,
    printer: _Printer,
    seed: int,
    **options: Any,
) -> Any:
    from s2t_ext.generation import generate
    from s2t_ext.hf.prompts import chat_prompt, pad_prompts

    inputs = pad_prompts(tokenizer, [chat_prompt(tokenizer, text) if chat else text], model)
    return generate(
        model,
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        s2t=config,
        selector=selector,
        seed=seed,
        on_step=printer.step,
        return_dict_in_generate=True,
        **options,
    )


def _one_line(summary: dict[str, Any]) -> str:
    milliseconds = sum(summary["milliseconds"].values())
    per_token = milliseconds / max(summary["steps"], 1)
    return (
        f"[{summary['steps']} tokens, {summary['triggers']} choices, {summary['changed_tokens']} "
        f"changed, {summary['forward_passes']} forward passes, {per_token:.0f} ms/token, "
        f"step: {summary['step_mode']}]"
    )


class _Printer:
    """Prints tokens as they are decided, whole characters at a time, colouring choices."""

    def __init__(self, tokenizer: Any, color: bool) -> None:
        self.tokenizer = tokenizer
        self.color = color
        self._tokens: list[int] = []  # from the last printed token on
        self._printed = 0  # how many of them are printed
        self._special = set(tokenizer.all_special_ids)

    def step(self, event: StepEvent) -> None:
        """One token of the single row."""
        token = int(event.tokens[0])
        if token in self._special:
            return
        self._tokens.append(token)
        text = self._unprinted()
        if text.endswith("\ufffd"):  # the bytes of a character are not all there yet
            return
        self._tokens = self._tokens[self._printed :]
        self._printed = len(self._tokens)
        style = ""
        if self.color and bool(event.triggered[0]):
            style = CHANGED if bool(event.changed[0]) else TRIGGERED
        # color=True: who asks for marks gets them in a pipe too.
        typer.echo(f"{style}{text}{RESET}" if style else text, nl=False, color=self.color or None)

    def end(self) -> None:
        """The rest of an unfinished character, and a line end."""
        typer.echo(self._unprinted())

    def _unprinted(self) -> str:
        """Text of the new tokens, after the one before them: alone, a word may lose its space."""
        before: str = self.tokenizer.decode(self._tokens[: self._printed])
        text: str = self.tokenizer.decode(self._tokens)
        return text[len(before) :]
