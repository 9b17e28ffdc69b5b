"""Text on a terminal as it is decided, with marks where a choice was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from s2t_ext.config import S2TConfig
    from s2t_ext.decoding.record import DecodingRecord, StepEvent

TRIGGERED = "\033[43;30m"  # a choice was made and kept the model's favourite
CHANGED = "\033[42;30m"  # a choice was made and changed the token
RESET = "\033[0m"
#: Shown for a token without text, such as the end of the answer, that a choice brought about.
END = "⏎end"


class Printer:
    """Prints tokens as they are decided, whole characters at a time, colouring choices.

    Args:
        tokenizer: Turns tokens into text.
        color: Mark choices.
    """

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
            if self.color and bool(event.changed[0]):
                typer.echo(f"{CHANGED}{END}{RESET}", nl=False, color=True)
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


def summary_line(record: DecodingRecord, special: set[int], config: S2TConfig) -> str:
    """What an answer took, in one line.

    Args:
        record: Of a generation with one row.
        special: Ids without text, such as the end of an answer.
        config: It was decoded with.
    """
    summary = record.summary()
    milliseconds = sum(summary["milliseconds"].values())
    ended = ", ended by a choice" if ended_by_choice(record, special) else ""
    # Nothing else would tell why a short answer has no choice.
    none = 0 < summary["steps"] <= config.warmup_steps and config.trigger != "never"
    warmup = f" (none in the first {config.warmup_steps} steps: --warmup-steps)" if none else ""
    return (
        f"[{summary['steps']} tokens, {summary['triggers']} choices{warmup}, "
        f"{summary['changed_tokens']} changed{ended}, {summary['forward_passes']} forward passes, "
        f"{milliseconds / max(summary['steps'], 1):.0f} ms/token, step: {summary['step_mode']}]"
    )


def ended_by_choice(record: DecodingRecord, special: set[int]) -> bool:
    """Whether a choice put the end of the answer where the model would have gone on."""
    row = record.rows[0]
    last = len(row.tokens) - 1
    return last in row.changed_steps and row.tokens[last] in special
