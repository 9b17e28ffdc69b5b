"""All K candidates in one forward pass, each at the same position, each seeing the prefix and
itself (design, section 3).
"""

from __future__ import annotations

from typing import Any

import torch

from s2t_ext.decoding.steps.candidate_step import Committed
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.candidate_attention import CandidateLayout, attention_configs, candidate_attention
from s2t_ext.hf.candidate_cache import commit_candidates
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.logits_head import LogitsHead
from s2t_ext.hf.ragged_rows import RaggedCache, RaggedRows


class TreeStep:
    """A candidate forward for models with pure attention layers; costs one forward pass of c + K
    tokens per row, or, if `ragged`, of c + 1 for the rows that need no choice.

    Args:
        ragged: Leave out the slots that do not matter; reads `needed` on the host.
    """

    def __init__(self, head: LogitsHead, *, ragged: bool = False) -> None:
        self.model = head.model
        self.head = head
        self.ragged = ragged
        self.forward_passes = 0
        self.tokens = 0
        self._configs = attention_configs(head.model)
        self._context: CandidateContext | None = None
        self._hidden: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> torch.Tensor:
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
        self._context = context
        self._hidden = hidden[:, -k:] if rows is None else rows.unpack(hidden, pending)
        self._logits = logits
        if logits is not None:
            self._logits = logits[:, -k:] if rows is None else rows.unpack(logits, pending)
        self.forward_passes = 1
        self.tokens = batch * (pending + k) if rows is None else rows.tokens
        return self._hidden

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

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """See `CandidateStep.commit`; the full head runs on the winners' hidden states only."""
        assert self._context is not None and self._hidden is not None
        cache, k = self._context.cache, self._hidden.shape[1]
        commit_candidates(cache, slot, k)
        rows = torch.arange(slot.shape[0], device=slot.device)
        hidden, logits = self._hidden[rows, slot], None
        if need_logits:
            logits = self.head.logits(hidden) if self._logits is None else self._logits[rows, slot]
        self._context = self._hidden = self._logits = None
        return Committed(cache, logits, hidden)

    @staticmethod
    def _positions(context: CandidateContext, batch: int, pending: int, k: int) -> torch.Tensor:
        assert (
            context.position_ids is not None
        )  # the self-test only admits models that take positions
        last = context.position_ids[..., -(pending + 1) :].expand(batch, -1)
        return torch.cat([last[:, :-1], last[:, -1:].expand(-1, k)], dim=1)
