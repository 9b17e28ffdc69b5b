"""What choosing among candidates means to the decode loop: the state it sees, the choice it
makes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol

import torch

from s2t_ext.decoding.steps.candidate_step import Committed
from s2t_ext.hf.context import CandidateContext
from s2t_ext.ops import ProposedCandidates


@dataclass
class StepState:
    """Everything a choice may depend on.

    Attributes:
        proposal: The candidates; ids are -1 where there is none.
        support: The student's support as far as it was proposed; its first K columns are the
            candidates before `candidate_ratio`.
        default: int64 [batch], the token of rows that need no choice (padding included).
        triggered: Bool [batch].
        finished: Bool [batch]; these rows emit `pad_id`.
        seed: int64 [batch], with `position` the key of the random numbers.
        position: int64 [batch].
        context: Cache, tokens, mask and positions before the choice.
    """

    proposal: ProposedCandidates
    support: ProposedCandidates
    default: torch.Tensor
    triggered: torch.Tensor
    finished: torch.Tensor
    pad_id: int
    seed: torch.Tensor
    position: torch.Tensor
    context: CandidateContext


@dataclass
class Choice:
    """The tokens of one step.

    Attributes:
        tokens: int64 [batch], the chosen tokens.
        slot: int64 [batch], their ranks among the candidates.
        scores: fp32 [batch, K] or None.
        committed: The student's state after these tokens; None if it has not seen them, so that an
            ordinary forward must follow.
        refused: Bool [batch], rows in which the override margin kept the first candidate; None
            where none applies.
    """

    tokens: torch.Tensor
    slot: torch.Tensor
    scores: torch.Tensor | None
    committed: Committed | None = None
    refused: torch.Tensor | None = None


class Selection(Protocol):
    """A way of choosing among candidates."""

    @property
    def wants_candidate_cache(self) -> bool:
        """Whether the student's cache should be able to hold alternatives."""
        ...

    @property
    def looks_ahead(self) -> bool:
        """Whether a choice takes the chosen token through the student, even in the last step."""
        ...

    def prefilled(self, context: CandidateContext) -> None:
        """Called once, after the prompt went through the student."""
        ...

    def choose(self, state: StepState) -> Choice:
        """Called at every step in which some row is triggered."""
        ...

    def describe(self) -> tuple[str, str]:
        """(mode, reason) for the record."""
        ...


class NoSelection:
    """The trigger cannot fire: nothing is ever chosen."""

    wants_candidate_cache = False
    looks_ahead = False

    def prefilled(self, context: CandidateContext) -> None:
        """Nothing to prepare."""

    def choose(self, state: StepState) -> Choice:
        """Never called."""
        raise AssertionError("NoSelection.choose: trigger must fire, got one that cannot")

    def describe(self) -> tuple[str, str]:
        """No candidate step."""
        return "none", "the trigger cannot fire"


def check_whole_sequence(context: CandidateContext, reader: str) -> None:
    """Raises ValueError if part of the prompt is known to the student's cache only."""
    length = None
    if context.cache is not None:
        with contextlib.suppress(ValueError):  # a recurrent state does not count
            length = context.cache.get_seq_length()
    if length is None:  # the mask has one column more
        mask = context.attention_mask
        length = context.input_ids.shape[1] if mask is None else mask.shape[1] - 1
    if context.input_ids.shape[1] != length:
        raise ValueError(
            f"generate: input_ids must hold the whole sequence for {reader}; inputs_embeds and "
            f"partial continuations are not supported, got {context.input_ids.shape[1]} of "
            f"{length} "
            "tokens"
        )
