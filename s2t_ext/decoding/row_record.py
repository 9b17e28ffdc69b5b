"""What a run did to one sequence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any


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
        refused_steps: Triggered steps at which the override margin kept the first candidate.
        ended_by_choice: Whether a choice ended the sequence where it would have gone on.
    """

    tokens: list[int] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    statistics: list[float] = field(default_factory=list)
    triggered_steps: list[int] = field(default_factory=list)
    changed_steps: list[int] = field(default_factory=list)
    chosen_ranks: list[int] = field(default_factory=list)
    refused_steps: list[int] = field(default_factory=list)
    ended_by_choice: bool = False

    @property
    def steps(self) -> int:
        """Number of tokens generated."""
        return len(self.tokens)


def row_record(columns: dict[str, list[Any]], end_ids: Collection[int] = ()) -> RowRecord:
    """The record of a row from its values at every step, those after its end left out.

    Args:
        columns: By name, a value per step.
        end_ids: Tokens that end a sequence.
    """
    steps = [step for step, is_active in enumerate(columns["active"]) if is_active]
    triggered = [step for step in steps if columns["triggered"][step]]
    return RowRecord(
        tokens=[columns["tokens"][step] for step in steps],
        entropies=[columns["entropy"][step] for step in steps],
        statistics=[columns["statistic"][step] for step in steps],
        triggered_steps=triggered,
        changed_steps=[step for step in steps if columns["changed"][step]],
        chosen_ranks=[columns["slot"][step] for step in triggered],
        refused_steps=[step for step in triggered if columns["refused"][step]],
        ended_by_choice=any(
            columns["changed"][step]
            and columns["tokens"][step] in end_ids
            and columns["ordinary"][step] not in end_ids
            for step in steps[-1:]
        ),
    )
