"""A candidate forward of a batch in which only some rows need a choice: the slots that matter, side
by side in one row of tokens, so that the others cost nothing.

    padded [batch, queries]          ragged [1, tokens]
    a needs a choice   a0 a1 a2
    b does not         b0 .  .   ->  a0 a1 a2 b0 c0 c1 c2
    c needs a choice   c0 c1 c2

All layers that treat tokens one by one (projections, experts, norms) see the ragged form; the cache
and the attention, where tokens meet, see the padded one, whose dots are copies of the row's slot 0.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache


class RaggedRows:
    """Which slots go through the model, and where each slot of the padded form is among them.

    Args:
        needed: Bool [batch]: the rows all of whose slots matter; of the others, the pending tokens
            and the first candidate do.
        num_pending: c.
        num_candidates: K; the padded form has c + K slots per row.
    """

    def __init__(self, needed: torch.Tensor, num_pending: int, num_candidates: int) -> None:
        self.batch, self.queries = needed.shape[0], num_pending + num_candidates
        column = torch.arange(self.queries, device=needed.device)
        taken = (needed[:, None] | (column <= num_pending)).flatten()
        #: int64 [tokens], indices into the flattened padded form.
        self._slots = taken.nonzero().squeeze(1)
        #: int64 [batch * queries], the token of every slot: a slot left out follows those of its
        #: row that are taken, of which the last is slot 0 of the candidates.
        self._source = taken.cumsum(0) - 1

    @property
    def tokens(self) -> int:
        """Tokens of the ragged form."""
        return self._slots.shape[0]

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """[batch, queries, ...] -> [1, tokens, ...]."""
        return padded.flatten(0, 1).index_select(0, self._slots)[None]

    def unpack(self, ragged: torch.Tensor, first: int = 0) -> torch.Tensor:
        """[1, tokens, ...] -> [batch, queries - first, ...], the slots from `first` on."""
        # Raises where a user's hook has added something per row, instead of taking the first.
        (tokens,) = ragged.unbind(0)
        source = self._source.view(self.batch, self.queries)[:, first:]
        padded = tokens.index_select(0, source.flatten())
        return padded.view(*source.shape, *padded.shape[1:])

    def unpack_heads(self, ragged: torch.Tensor) -> torch.Tensor:
        """[1, heads, tokens, size] -> [batch, heads, queries, size]."""
        (tokens,) = ragged.unbind(0)
        padded = tokens.index_select(1, self._source)
        heads, _, size = padded.shape
        return padded.view(heads, self.batch, self.queries, size).transpose(0, 1)


class RaggedCache(Cache):
    """The layers of another cache, for one ragged forward: stores what it is given unpacked."""

    def __init__(self, cache: Cache, rows: RaggedRows) -> None:
        super().__init__(layers=cache.layers)
        self._cache, self._rows = cache, rows

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends entries [1, kv_heads, tokens, head_dim]; returns those of every row so far."""
        keys, values = self._rows.unpack_heads(key_states), self._rows.unpack_heads(value_states)
        return self._cache.update(keys, values, layer_idx, *args, **kwargs)  # type: ignore[no-any-return]
