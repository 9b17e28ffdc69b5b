"""What a run did: the `.s2t` of a result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s2t_ext.hf.generate_internals import GenerateDecoderOnlyOutput

# What a record keeps of a step, and of how many steps at most before it joins them.
_COLUMNS = ("tokens", "ordinary", "triggered", "slot", "statistic", "entropy", "active")
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
        scores: fp32 [batch, K] or None if no row was triggered.
        logits: fp32 [batch, K], the student's logits of the candidates, or None.
        logsumexp: fp32 [batch], of all the student's logits, or None.
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
    scores: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    logsumexp: torch.Tensor | None = None

    @property
    def logprobs(self) -> torch.Tensor | None:
        """fp32 [batch, K]: the student's log-probabilities of the candidates, or None."""
        if self.logits is None or self.logsumexp is None:
            return None
        return self.logits - self.logsumexp[:, None]

    @property
    def changed(self) -> torch.Tensor:
        """Bool [batch]: rows whose token differs from the ordinary one."""
        return self.triggered & (self.tokens != self.ordinary)


@dataclass
class RowRecord:
    """One sequence: lists run over its steps.

    Attributes:
        tokens: Emitted ids.
        entropies: Support entropy in nats.
        statistics: The trigger's statistic.
        triggered_steps: Steps that needed a choice.
        changed_steps: Those where the choice differed from the ordinary token.
        chosen_ranks: Rank of the chosen candidate at each triggered step.
    """

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    statistics: list[float] = field(default_factory=list)
    triggered_steps: list[int] = field(default_factory=list)
    changed_steps: list[int] = field(default_factory=list)
    chosen_ranks: list[int] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of tokens generated."""
        return len(self.tokens)


def _row_record(columns: dict[str, list[Any]]) -> RowRecord:
    """The record of a row from its values at every step, those after its end left out."""
    steps = [step for step, is_active in enumerate(columns["active"]) if is_active]
    triggered = [step for step in steps if columns["triggered"][step]]
    return RowRecord(
        tokens=[columns["tokens"][step] for step in steps],
        entropies=[columns["entropy"][step] for step in steps],
        statistics=[columns["statistic"][step] for step in steps],
        triggered_steps=triggered,
        changed_steps=[step for step in steps if columns["changed"][step]],
        chosen_ranks=[columns["slot"][step] for step in triggered],
    )


@dataclass
class DecodingRecord:
    """Everything recorded about one `generate` call.

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
    _steps: list[list[torch.Tensor]] = field(default_factory=list, repr=False)
    _stacks: list[list[torch.Tensor]] = field(default_factory=list, repr=False)

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
        self._steps.append([getattr(event, name) for name in _COLUMNS])
        if len(self._steps) == STACKED_STEPS:
            self._stack()

    def _stack(self) -> None:
        """Joins the kept steps: thousands of tensors of a few bytes each would take a block of the
        device's memory each.
        """
        if self._steps:
            self._stacks.append([torch.stack(c) for c in zip(*self._steps, strict=True)])
            self._steps.clear()

    def finish(self) -> None:
        """Turns the kept steps into row records."""
        self._stack()
        if not self._stacks:
            return
        columns = dict(zip(_COLUMNS, map(torch.cat, zip(*self._stacks, strict=True)), strict=True))
        self._stacks.clear()
        columns["changed"] = columns["triggered"] & (columns["tokens"] != columns["ordinary"])
        by_row = {name: column.T.tolist() for name, column in columns.items()}
        self.rows = [
            _row_record({name: values[b] for name, values in by_row.items()})
            for b in range(len(by_row["tokens"]))
        ]

    def summary(self) -> dict[str, Any]:
        """Totals as plain JSON values."""
        return {
            "steps": self.steps,
            "triggers": self.triggers,
            "changed_tokens": self.changed_tokens,
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
                    content[name] = [v if math.isfinite(v) else None for v in content[name]]
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
