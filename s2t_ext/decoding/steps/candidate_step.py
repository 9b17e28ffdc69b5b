"""What every way of running K candidates through the model has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import Cache, GenerationMixin, PreTrainedModel

from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.context import CandidateContext


@dataclass(frozen=True)
class Committed:
    """The state after a commit.

    Attributes:
        cache: With the winners in it; None in a generation without one.
        logits: [batch, V] after the winners; None if not asked for.
        hidden: [batch, D], what the head read for them; None with the logits.
        undo: Takes the winners out of a cache that cannot be cropped; None for one that can.
        outputs: Attentions and hidden states of the winners, by name, where the model gave them.
    """

    cache: Cache | None
    logits: torch.Tensor | None
    hidden: torch.Tensor | None
    undo: Callable[[], None] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)


class CandidateForward(Protocol):
    """K candidates that have gone through the model and wait for one of them to win."""

    @property
    def hidden(self) -> torch.Tensor:
        """[batch, K, D] in the model's dtype: what the head reads after each candidate. Slots that
        do not matter hold unspecified finite values.
        """
        ...

    @property
    def tokens(self) -> int:
        """Tokens that went through the model."""
        ...

    @property
    def passes(self) -> int:
        """Forward passes it took."""
        ...

    def of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        """[batch, K, D] of what a layer put out in this forward, in the order of `hidden`."""
        ...

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """Keeps the winners (int64 [batch]) in the cache; called once."""
        ...


class CandidateStep(Protocol):
    """One way of running the candidates of a step through the model."""

    @property
    def mode(self) -> str:
        """ "tree" or "expand", for the record."""
        ...

    @property
    def wants_candidate_cache(self) -> bool:
        """Whether it runs on the student's own cache and needs one that can hold alternatives."""
        ...

    def fits(self, context: CandidateContext, k: int) -> bool:
        """Whether K candidates can be run from this state."""
        ...

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> CandidateForward:
        """Runs the candidates.

        Args:
            context: The state before them.
            candidates: int64 [batch, K], all valid ids; a row that needs no choice repeats its own
                token.
            needed: Bool [batch], the rows whose K slots matter; of the others only slot 0 does.

        Returns:
            What came out, and the commit.
        """
        ...


def restarts_prefix(model: PreTrainedModel, context: CandidateContext) -> bool:
    """Whether the model recomputes its prefix at this length (long-context rope switches): no tree
    forward is exact then.
    """
    if type(model).prepare_inputs_for_generation is GenerationMixin.prepare_inputs_for_generation:
        return False
    inputs = model.prepare_inputs_for_generation(
        torch.cat([context.input_ids, context.input_ids[:, -1:]], dim=1),
        next_sequence_length=1,
        **{CACHE_ARGUMENT: context.cache},
        attention_mask=context.attention_mask,
        position_ids=context.position_ids,
        use_cache=True,
    )
    return inputs.get(CACHE_ARGUMENT) is None
