"""Propose: wrapper and fake."""

from typing import Any

import torch
from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind
from s2t_ext.ops.reference.propose_candidates import ProposedCandidates


def propose_candidates(
    logits: Tensor, k: int, support: int = 64, blocked_ids: Tensor | None = None
) -> ProposedCandidates:
    """The k best tokens of every row with the trigger statistics, in one read of the logits.

    Args:
        logits: float32, bfloat16 or float16 [batch, vocab]; last stride 1, any row stride.
        k: how many candidates, 1 to 64. With fewer valid tokens the rest are id -1, logit -inf.
        support: `support_entropy` is over the `support` best tokens, k to 64; 0 means all tokens.
        blocked_ids: int64 [at most 64] ids in [0, vocab) that are never proposed and count in no
            sum, e.g. the reserved ids of the score head.

    Returns:
        ProposedCandidates: ids int64 and logits float32 [batch, k], best first, equal logits by
        lower id; logsumexp, support_entropy and full_entropy float32 [batch], in nats; status
        int32 [batch], an or of the STATUS_* bits of `s2t_ext.reference`. NaN counts as blocked.
        With a logit of +inf the log-sum-exp is +inf and the entropies are 0; in a row without a
        valid token the log-sum-exp is -inf and the entropies are 0.

    Raises:
        RuntimeError: wrong rank or dtype, k, support or a blocked id out of range.

    Source: candidate set C_t and entropy trigger of Select to Think (arXiv 2604.26940).
    """
    return ProposedCandidates._make(
        _op(logits=logits, k=k, support=support, blocked_ids=blocked_ids)
    )


def _fake(logits: Tensor, k: int, **_: Any) -> tuple[Tensor, ...]:
    batch = logits.shape[0]
    return (
        logits.new_empty((batch, k), dtype=torch.int64),
        logits.new_empty((batch, k), dtype=torch.float32),
        logits.new_empty(batch, dtype=torch.float32),
        logits.new_empty(batch, dtype=torch.float32),
        logits.new_empty(batch, dtype=torch.float32),
        logits.new_empty(batch, dtype=torch.int32),
    )


_op = bind("propose_candidates", reference.propose_candidates, _fake)
