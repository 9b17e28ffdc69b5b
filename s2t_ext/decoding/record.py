"""What a run did: the `.s2t` of a result."""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s2t_ext.decoding.row_record import RowRecord, row_record
from s2t_ext.decoding.trace import Proposals, finite, trace_steps
from s2t_ext.hf.generate_internals import GenerateDecoderOnlyOutput
from s2t_ext.runs.trace_page import trace_page

# What a record keeps of a step, and of how many steps at most before it joins them.
_COLUMNS = (
    *("tokens", "ordinary", "triggered", "slot", "statistic", "entropy", "active"),
    *("candidates", "logits", "logsumexp"),
)
STACKED_STEPS = 64


@dataclass
class StepEvent:
    """One decoding step, as handed to `on_step`.

    Attributes:
        step: 0 for the first generated token.
        tokens: int64 [batch], what was emitted.
        ordinary: int64 [batch], what would have been without a choice.
        triggered: Bool [batch].
        slot: int64 [batch], rank of the chosen candidate (0 = the model's own favourite).
        statistic: fp32 [batch], what the trigger compares with its threshold.
        entropy: fp32 [batch], of the student, nats.
        active: Bool [batch], rows still generating before this step.
        candidates: int64 [batch, K], -1 where there is none.
        logits: fp32 [batch, K], the student's logits of the candidates.
        logsumexp: fp32 [batch], of all the student's logits.
        scores: fp32 [batch, K] or None if no row was triggered.
        refused: Bool [batch], rows in which the override margin kept the first candidate in place
            of a better one; None if none was asked.
    """

    step: int
    tokens: torch.Tensor
    ordinary: torch.Tensor
    triggered: torch.Tensor
    slot: torch.Tensor
    statistic: torch.Tensor
    entropy: torch.Tensor
    active: torch.Tensor
    candidates: torch.Tensor
    logits: torch.Tensor
    logsumexp: torch.Tensor
    scores: torch.Tensor | None = None
    refused: torch.Tensor | None = None

    @property
    def logprobs(self) -> torch.Tensor:
        """fp32 [batch, K]: the student's log-probabilities of the candidates."""
        return self.logits - self.logsumexp[:, None]

    @property
    def changed(self) -> torch.Tensor:
        """Bool [batch]: rows whose token differs from the ordinary one."""
        return self.triggered & (self.tokens != self.ordinary)


@dataclass(repr=False)
class DecodingRecord:
    """Everything recorded about one `generate` call. Printed, and at the end of a notebook's cell,
    it shows the totals.

    Attributes:
        rows: One record per sequence.
        step_mode: "tree" or "expand", and `step_reason` why.
        forward_passes: Calls of the student (prefill included).
        tokens_through_model: Token positions they computed.
        teacher_forward_passes: Calls of the teacher, 0 without one.
        milliseconds: Wall-clock time per phase (host time: on CUDA it does not wait for the
            device).
    """

    rows: list[RowRecord] = field(default_factory=list)
    step_mode: str = ""
    step_reason: str = ""
    forward_passes: int = 0
    tokens_through_model: int = 0
    teacher_forward_passes: int = 0
    milliseconds: dict[str, float] = field(default_factory=dict)
    _end_ids: tuple[int, ...] = field(default=(), repr=False)
    _steps: list[list[torch.Tensor]] = field(default_factory=list, repr=False)
    _stacks: list[list[torch.Tensor]] = field(default_factory=list, repr=False)
    _scored_steps: list[int] = field(default_factory=list, repr=False)
    _scores: list[torch.Tensor] = field(default_factory=list, repr=False)
    _proposals: Proposals | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return (
            f"DecodingRecord({len(self.rows)} rows, {self.steps} steps, {self.triggers} choices, "
            f"{self.changed_tokens} changed, {self.forward_passes} forward passes, "
            f"step_mode={self.step_mode!r})"
        )

    def _repr_html_(self) -> str:
        """The totals as a table, for notebooks."""
        values = {**self.summary(), "milliseconds": f"{sum(self.milliseconds.values()):.0f}"}
        rows = (
            f"<tr><th style='text-align: left'>{name}</th><td style='text-align: left'>"
            f"{html.escape(f'{value:.3g}' if isinstance(value, float) else str(value))}</td></tr>"
            for name, value in values.items()
        )
        return f"<table>{''.join(rows)}</table>"

    @property
    def steps(self) -> int:
        """Tokens generated, over all rows."""
        return sum(row.steps for row in self.rows)

    @property
    def triggers(self) -> int:
        """Triggered steps, over all rows."""
        return sum(len(row.triggered_steps) for row in self.rows)

    @property
    def changed_tokens(self) -> int:
        """Steps whose token was changed by the choice, over all rows."""
        return sum(len(row.changed_steps) for row in self.rows)

    @property
    def refused_overrides(self) -> int:
        """Choices the override margin did not let through, over all rows."""
        return sum(len(row.refused_steps) for row in self.rows)

    @property
    def ended_by_choice(self) -> int:
        """Sequences that a choice ended where they would have gone on: no later choice can mend
        that.
        """
        return sum(row.ended_by_choice for row in self.rows)

    @property
    def trigger_rate(self) -> float:
        """Triggered share of all steps; 0 for an empty run."""
        return self.triggers / self.steps if self.steps else 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to `milliseconds[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.milliseconds[name] = (
                self.milliseconds.get(name, 0.0) + (time.perf_counter() - start) * 1e3
            )

    def count_forward(self, tokens: int, passes: int = 1) -> None:
        """Adds student forward passes and the token positions they took."""
        self.forward_passes += passes
        self.tokens_through_model += tokens

    def add(self, event: StepEvent) -> None:
        """Keeps of a step what the rows need; read only in `finish`, so no step waits for the
        device.
        """
        refused = torch.zeros_like(event.triggered) if event.refused is None else event.refused
        self._steps.append([*(getattr(event, name) for name in _COLUMNS), refused])
        if event.scores is not None:
            self._scored_steps.append(event.step)
            self._scores.append(event.scores)
        if len(self._steps) == STACKED_STEPS:
            self._stack()

    def _stack(self) -> None:
        """Joins the kept steps: thousands of tensors of a few bytes each would take a block of the
        device's memory each.
        """
        if self._steps:
            self._stacks.append([torch.stack(c) for c in zip(*self._steps, strict=True)])
            self._steps.clear()
        if self._scores:  # each [batch, K]; the first holds those of earlier steps
            self._scores = [torch.cat(self._scores)]

    def finish(self) -> None:
        """Turns the kept steps into row records."""
        self._stack()
        if not self._stacks:
            return
        names = (*_COLUMNS, "refused")
        columns = dict(zip(names, map(torch.cat, zip(*self._stacks, strict=True)), strict=True))
        self._stacks.clear()
        self._proposals = self._finish_proposals(columns)
        columns["changed"] = columns["triggered"] & (columns["tokens"] != columns["ordinary"])
        by_row = {name: column.T.tolist() for name, column in columns.items()}
        self.rows = [
            row_record({name: values[b] for name, values in by_row.items()}, self._end_ids)
            for b in range(len(by_row["tokens"]))
        ]

    def _finish_proposals(self, columns: dict[str, torch.Tensor]) -> Proposals:
        """Takes the candidates out of the columns, to the CPU."""
        ids, logits = columns.pop("candidates").cpu(), columns.pop("logits")
        logprobs = (logits - columns.pop("logsumexp")[..., None]).cpu()
        scores = torch.full_like(logprobs, math.nan)
        if self._scores:
            scored = scores[self._scored_steps].shape
            scores[self._scored_steps] = torch.cat(self._scores).view(scored).cpu()
            self._scores.clear()
        # In rows without a choice the operator's scores mean nothing.
        scores = scores.where(columns["triggered"].cpu()[..., None], math.nan)
        return Proposals(columns["ordinary"].cpu(), ids, logprobs, scores)

    def trace(self, tokenizer: Any, row: int = 0) -> list[dict[str, Any]]:
        """Every step of one sequence, as plain values that JSON knows.

        Args:
            tokenizer: Turns tokens into text.
            row: Place of the sequence in the batch.

        Returns:
            Per token: row, step, token, text, special, entropy, statistic, triggered, changed,
            ordinary (the token without a choice) and candidates: id, text, logprob and, where a
            choice was made, score.
        """
        assert self._proposals is not None  # `finish` sets it with the rows
        return trace_steps(self.rows[row], self._proposals, tokenizer, row)

    def to_html(self, tokenizer: Any, *, prompt: str = "", row: int = 0) -> str:
        """A page that shows every step of one sequence: one file for any browser.

        `python -m s2t_ext trace` shows greedy decoding beside it.

        Args:
            tokenizer: Turns tokens into text.
            prompt: Shown above the answer.
            row: Place of the sequence in the batch.

        Returns:
            HTML text, to be written as UTF-8.
        """
        run = {"name": "Select to Think", "summary": self.summary()}
        return trace_page(
            {"prompt": prompt, "runs": [{**run, "steps": self.trace(tokenizer, row)}]}
        )

    def summary(self) -> dict[str, Any]:
        """Totals as plain JSON values."""
        return {
            "steps": self.steps,
            "triggers": self.triggers,
            "changed_tokens": self.changed_tokens,
            "refused_overrides": self.refused_overrides,
            "ended_by_choice": self.ended_by_choice,
            "trigger_rate": self.trigger_rate,
            "step_mode": self.step_mode,
            "step_reason": self.step_reason,
            "forward_passes": self.forward_passes,
            "tokens_through_model": self.tokens_through_model,
            "teacher_forward_passes": self.teacher_forward_passes,
            "milliseconds": {name: round(value, 3) for name, value in self.milliseconds.items()},
        }

    def write_jsonl(self, path: str | Path) -> Path:
        """Writes one line with the totals, then one line per sequence; returns the path.

        NaN and infinities (the margin of a single candidate) are null: JSON has no numbers for
        them.
        """
        path = Path(path)
        with path.open("w") as file:
            file.write(json.dumps({"kind": "summary", **self.summary()}, allow_nan=False) + "\n")
            for index, row in enumerate(self.rows):
                content = {name: getattr(row, name) for name in RowRecord.__dataclass_fields__}
                for name in ("entropies", "statistics"):
                    content[name] = [finite(v) for v in content[name]]
                line = {"kind": "row", "row": index, **content}
                file.write(json.dumps(line, allow_nan=False) + "\n")
        return path


@dataclass
class S2TGenerateOutput(GenerateDecoderOnlyOutput):
    """`GenerateDecoderOnlyOutput` with one more field.

    Attributes:
        s2t: The `DecodingRecord` of the call.
    """

    s2t: DecodingRecord | None = None
