"""What every way of running K candidates through the model has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class CandidateContext:
    """The state before a candidate forward: the cache holds n tokens, c pending ones follow, then
    the candidates.

    Attributes:
        cache: Keys and values of the first n tokens of every row.
        input_ids: int64 [batch, n + c], every token so far (only those after the prompt, if the
            prompt came as embeddings).
        num_pending: c, how many of them the cache has not seen; 0 in the ordinary loop.
        attention_mask: int64 [batch, n + c + 1] including the candidates' own position, or None
            without padding.
        position_ids: int64 [batch, n + c + 1], or None for models that take none.
        model_kwargs: Everything else `generate` passes to the model.
        compile_config: How transformers compiles its own forwards of this generation; None where it
            does not.
    """

    cache: Cache
    input_ids: torch.Tensor
    num_pending: int
    attention_mask: torch.Tensor | None
    position_ids: torch.Tensor | None
    model_kwargs: dict[str, Any]
    compile_config: Any = None

    @property
    def pending(self) -> torch.Tensor:
        """The last c tokens, int64 [batch, c]."""
        return self.input_ids[:, self.input_ids.shape[1] - self.num_pending :]


def cached_tokens(cache: Cache | None) -> int:
    """Tokens a cache has seen; 0 for purely recurrent ones, which do not count them."""
    layers = getattr(cache, "layers", ())
    if cache is None or not any(isinstance(layer, CacheLayerMixin) for layer in layers):
        return 0
    return int(cache.get_seq_length())


class Committed(NamedTuple):
    """The state after a commit: cache, logits [batch, V] and head input [batch, D] of the winners
    (None if not asked for).

    `undo` takes the winners out of a cache that cannot be cropped; None for one that can.
    """

    cache: Cache
    logits: torch.Tensor | None
    hidden: torch.Tensor | None
    undo: Callable[[], None] | None = None


class CandidateStep(Protocol):
    """One candidate forward, in two halves: first the hidden states, then, when a slot has won, the
    commit.
    """

    #: Forward passes of the last `forward`, and tokens they took through the model.
    forward_passes: int
    tokens: int

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states the head reads after each candidate.

        Args:
            candidates: int64 [batch, K], all valid ids; a row that needs no choice repeats its own
                token.
            needed: Bool [batch], the rows whose K slots matter; of the others only slot 0 does.

        Returns:
            [batch, K, D] in the model's dtype. Slots that do not matter hold unspecified finite
            values.
        """
        ...

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """Keeps the winners (int64 [batch]) in the cache."""
        ...
