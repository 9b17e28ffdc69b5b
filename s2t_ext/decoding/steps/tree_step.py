"""All K candidates in one forward pass, each at the same position, each seeing the prefix and
itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from s2t_ext.decoding.steps.candidate_step import Committed, restarts_prefix
from s2t_ext.hf.attention.candidate_attention import attention_configs, candidate_attention
from s2t_ext.hf.attention.layout import CandidateLayout
from s2t_ext.hf.attention.ragged_rows import RaggedCache, RaggedRows
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.candidate_cache import can_commit, commit_candidates
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.logits_head import LogitsHead


class TreeStep:
    """A candidate forward for models with pure attention layers; costs one forward pass of c + K
    tokens per row, or, if `ragged`, of c + 1 for the rows that need no choice.

    Args:
        head: Of the model.
        ragged: Leave out the slots that do not matter; reads `needed` on the host.
    """

    mode = "tree"
    wants_candidate_cache = True

    def __init__(self, head: LogitsHead, *, ragged: bool = False) -> None:
        self.model = head.model
        self.head = head
        self.ragged = ragged
        self._configs = attention_configs(head.model)

    def fits(self, context: CandidateContext, k: int) -> bool:
        """See `CandidateStep.fits`. A model that recomputes its prefix may have left a cache of its
        own making.
        """
        return (
            can_commit(context.cache)
            and context.mask_fits_cache
            and not restarts_prefix(self.model, context)
        )

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> TreeForward:
        """See `CandidateStep.forward`."""
        batch, k = candidates.shape
        pending = context.num_pending
        rows = None
        if self.ragged and not needed.all():
            rows = RaggedRows(needed, pending, k)
        inputs = {
            "input_ids": torch.cat([context.pending, candidates], dim=1) if pending else candidates,
            "position_ids": self._positions(context, batch, pending, k),
            CACHE_ARGUMENT: context.cache,
            "use_cache": True,
        }
        if rows is not None:
            for name in ("input_ids", "position_ids"):
                inputs[name] = rows.pack(inputs[name])
            inputs[CACHE_ARGUMENT] = RaggedCache(context.cache, rows)
        layout = CandidateLayout(k, pending, context.token_mask, rows)
        hidden, logits = self._run(inputs, layout)
        return TreeForward(
            hidden=_of_candidates(hidden, k, pending, rows),
            tokens=batch * (pending + k) if rows is None else rows.tokens,
            head=self.head,
            cache=context.cache,
            logits=None if logits is None else _of_candidates(logits, k, pending, rows),
            pending=pending,
            rows=rows,
        )

    def _run(
        self, inputs: dict[str, Any], layout: CandidateLayout
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states of all queries; and their logits, where the head has no separate body."""
        with candidate_attention(self._configs, layout):
            if self.head.body is not None:
                return self.head.body(**inputs).last_hidden_state, None
            with self.head.tracing() as trace:
                logits = self.model(**inputs).logits
            return trace.hidden, logits

    @staticmethod
    def _positions(context: CandidateContext, batch: int, pending: int, k: int) -> torch.Tensor:
        assert context.position_ids is not None  # the self-test only admits models that take them
        last = context.position_ids[..., -(pending + 1) :].expand(batch, -1)
        return torch.cat([last[:, :-1], last[:, -1:].expand(-1, k)], dim=1)


@dataclass(frozen=True)
class TreeForward:
    """See `CandidateForward`.

    Attributes:
        hidden: [batch, K, D].
        tokens: Through the model.
        head: Of the model.
        cache: Holds all K candidates of every row.
        logits: [batch, K, V], where the model gave them; None where the head still has to.
        pending: Queries of a row before its candidates.
        rows: Where slots were left out; else None.
    """

    hidden: torch.Tensor
    tokens: int
    head: LogitsHead
    cache: Cache
    logits: torch.Tensor | None
    pending: int
    rows: RaggedRows | None
    passes: int = 1

    def of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        """See `CandidateForward.of_candidates`."""
        return _of_candidates(states, self.hidden.shape[1], self.pending, self.rows)

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """See `CandidateForward.commit`; the full head runs on the winners' hidden states only."""
        commit_candidates(self.cache, slot, self.hidden.shape[1])
        rows = torch.arange(slot.shape[0], device=slot.device)
        hidden, logits = self.hidden[rows, slot], None
        if need_logits:
            logits = self.head.logits(hidden) if self.logits is None else self.logits[rows, slot]
        return Committed(self.cache, logits, hidden)


def _of_candidates(
    values: torch.Tensor, k: int, pending: int, rows: RaggedRows | None
) -> torch.Tensor:
    """[batch, K, ...] of the forward's queries."""
    return values[:, -k:] if rows is None else rows.unpack(values, pending)
