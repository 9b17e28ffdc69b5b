"""Sample: the ordinary next token of every row."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common
from s2t_ext.ops.reference.philox import PURPOSE_SAMPLE_TOKEN, uniform53
from s2t_ext.ops.reference.propose_candidates import check_blocked_ids

_OP = "sample_token"


class SampledToken(NamedTuple):
    """Result of `sample_token`."""

    token: Tensor  # int64 [batch]; -1 in a row without a valid token
    logprob: Tensor  # float32 [batch], under softmax of the row (not tempered, not truncated)


def sample_token(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    position: Tensor,
    blocked_ids: Tensor | None = None,
) -> SampledToken:
    """See `s2t_ext.ops.sample_token`."""
    _check(logits, temperature, top_k, top_p, min_p, seed, position, blocked_ids)
    x, _ = common.usable_logits(logits, blocked_ids)
    # A stable sort keeps equal logits in the order of their ids.
    ordered, order = torch.sort(x, dim=1, descending=True, stable=True)
    best, best_id = ordered[:, :1], order[:, 0]

    is_greedy = ~(temperature > 0) | (best[:, 0] == math.inf)
    tau = torch.where(is_greedy, 1.0, temperature.double())[:, None]
    tempered = (ordered - torch.where(best.isfinite(), best, 0.0)) / tau
    keep = _kept(
        ordered, tempered, top_k[:, None], top_p.double()[:, None], min_p.double()[:, None]
    )

    # Inverse of the cumulated distribution in the order of the ids.
    weight = torch.where(keep, tempered.exp(), 0.0)
    weight = torch.zeros_like(weight).scatter(1, order, weight)
    cumulated = weight.cumsum(dim=1)
    u = uniform53(seed, position, PURPOSE_SAMPLE_TOKEN)[:, None]
    drawn = (cumulated <= u * cumulated[:, -1:]).sum(dim=1)
    token_ids = torch.arange(x.shape[1], device=x.device)
    last_kept = torch.where(weight > 0, token_ids, 0).max(dim=1).values
    token = torch.where(is_greedy, best_id, torch.minimum(drawn, last_kept))

    logprob = common.log_probabilities(x).gather(1, token[:, None]).squeeze(1)
    has_none = best[:, 0] == -math.inf
    return SampledToken(token.masked_fill(has_none, -1), logprob.float())


def _kept(ordered: Tensor, tempered: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which of the ordered entries may be drawn: top-k, then top-p, then min-p; never none."""
    vocab = tempered.shape[1]
    rank = torch.arange(vocab, device=tempered.device)
    # Of the logits themselves: the difference to the best rounds unequal ones to equal ones.
    last = ordered.gather(1, top_k.clamp(1, vocab) - 1)
    keep = (top_k <= 0) | (ordered >= last)  # all that equal the k-th
    p = common.log_probabilities(torch.where(keep, tempered, -math.inf)).exp()
    keep = keep & ((top_p >= 1) | (p.cumsum(dim=1) - p < top_p))
    keep = keep & ((min_p <= 0) | (p >= min_p * p[:, :1]))
    return (keep | (rank == 0)) & (tempered > -math.inf)


def _check(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    position: Tensor,
    blocked_ids: Tensor | None,
) -> None:
    common.require_rank(_OP, "logits", logits, 2, "[batch, vocab]")
    common.require_dtype(_OP, "logits", logits, common.LOGIT_DTYPES)
    vocab = logits.shape[1]
    common.require(vocab >= 1, _OP, "logits", "have at least one column", vocab)
    for argument, tensor, dtype in (
        ("temperature", temperature, torch.float32),
        ("top_k", top_k, torch.int64),
        ("top_p", top_p, torch.float32),
        ("min_p", min_p, torch.float32),
        ("seed", seed, torch.int64),
        ("position", position, torch.int64),
    ):
        common.require_dtype(_OP, argument, tensor, (dtype,))
        common.require_shape(_OP, argument, tensor, logits.shape[:1], "[batch]")
        common.require_device(_OP, argument, tensor, logits, "logits")
    check_blocked_ids(_OP, blocked_ids, logits)
