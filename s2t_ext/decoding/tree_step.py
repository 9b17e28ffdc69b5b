"""All K candidates in one forward pass, each at the same position, each seeing the prefix and
itself (design, section 3).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from .cache_argument import CACHE_ARGUMENT
from .candidate_attention import CandidateLayout, attention_configs, candidate_attention
from .candidate_cache import commit_candidates
from .candidate_step import CandidateContext, Committed
from .logits_head import LogitsHead, traced_head


class TreeStep:
    """A candidate forward for models with pure attention layers; costs one forward pass of c + K
    tokens per row.
    """

    def __init__(self, model: PreTrainedModel, head: LogitsHead) -> None:
        self.model = model
        self.head = head
        self.forward_passes = 0
        self.tokens = 0
        self._configs = attention_configs(model)
        self._context: CandidateContext | None = None
        self._hidden: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> torch.Tensor:
        """See `CandidateStep.forward`; every row takes all its K slots through the model."""
        batch, k = candidates.shape
        pending = context.num_pending
        mask = context.attention_mask
        layout = CandidateLayout(k, pending, None if mask is None else mask[:, :-1].bool())
        inputs = {
            "input_ids": torch.cat([context.pending, candidates], dim=1) if pending else candidates,
            "position_ids": self._positions(context, batch, pending, k),
            CACHE_ARGUMENT: context.cache,
            "use_cache": True,
        }
        with candidate_attention(self._configs, layout):
            if self.head.body is not None:
                hidden = self.head.body(**inputs).last_hidden_state
                logits = None
            else:
                with traced_head(self.model) as trace:
                    logits = self.model(**inputs).logits[:, -k:]
                assert trace.hidden is not None
                hidden = trace.hidden
        self._context, self._hidden, self._logits = context, hidden[:, -k:], logits
        self.forward_passes, self.tokens = 1, batch * (pending + k)
        return self._hidden

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
