"""Propose: the k best tokens of every row, and how sure the model is."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common

_OP = "propose_candidates"


class ProposedCandidates(NamedTuple):
    """Result of `propose_candidates`, best candidate first."""

    ids: Tensor  # int64 [batch, k]; -1 where fewer than k tokens are valid
    logits: Tensor  # float32 [batch, k]; -inf there
    logsumexp: Tensor  # float32 [batch], over all valid tokens
    support_entropy: Tensor  # float32 [batch], nats, of softmax over the `support` best
    full_entropy: Tensor  # float32 [batch], nats, of softmax over all valid tokens
    status: Tensor  # int32 [batch]; bits STATUS_* of s2t_ext.reference

    @property
    def logprobs(self) -> Tensor:
        """The candidates' log-probabilities over all valid tokens, float32 [batch, k]."""
        return self.logits - self.logsumexp[:, None]


def propose_candidates(
    logits: Tensor, k: int, support: int = 64, blocked_ids: Tensor | None = None
) -> ProposedCandidates:
    """See `s2t_ext.ops.propose_candidates`."""
    _check(logits, k, support, blocked_ids)
    x, has_nan = common.usable_logits(logits, blocked_ids)

    # A stable sort keeps equal logits in the order of their ids.
    ordered, ids = torch.sort(x, dim=1, descending=True, stable=True)
    ids = ids.masked_fill(ordered == -math.inf, -1)
    missing = k - ids.shape[1]
    if missing > 0:
        ids = torch.nn.functional.pad(ids, (0, missing), value=-1)
        ordered = torch.nn.functional.pad(ordered, (0, missing), value=-math.inf)

    full_entropy = common.entropy(common.log_probabilities(x))
    support_entropy = (
        common.entropy(common.log_probabilities(ordered[:, :support])) if support else full_entropy
    )
    num_valid = (x > -math.inf).sum(dim=1)
    status = (
        has_nan * common.STATUS_NAN_SEEN
        + (num_valid == 0) * common.STATUS_NO_VALID_TOKEN
        + (x == math.inf).any(dim=1) * common.STATUS_INF_SEEN
        + (num_valid < k) * common.STATUS_FEWER_THAN_K
    )
    return ProposedCandidates(
        ids[:, :k].contiguous(),
        ordered[:, :k].float(),
        torch.logsumexp(x, dim=1).float(),
        support_entropy.float(),
        full_entropy.float(),
        status.int(),
    )


def _check(logits: Tensor, k: int, support: int, blocked_ids: Tensor | None) -> None:
    common.require_rank(_OP, "logits", logits, 2, "[batch, vocab]")
    common.require_dtype(_OP, "logits", logits, common.LOGIT_DTYPES)
    vocab = logits.shape[1]
    common.require(vocab >= 1, _OP, "logits", "have at least one column", vocab)
    limit = common.MAX_CANDIDATES
    common.require(1 <= k <= limit, _OP, "k", f"be in [1, {limit}]", k)
    is_support = support == 0 or k <= support <= limit
    common.require(is_support, _OP, "support", f"be 0 or in [k, {limit}]", support)
    check_blocked_ids(_OP, blocked_ids, logits)


def check_blocked_ids(op: str, blocked_ids: Tensor | None, logits: Tensor) -> None:
    if blocked_ids is None:
        return
    common.require_rank(op, "blocked_ids", blocked_ids, 1, "[num_blocked]")
    common.require_dtype(op, "blocked_ids", blocked_ids, (torch.int64,))
    common.require_device(op, "blocked_ids", blocked_ids, logits, "logits")
    limit, count = common.MAX_BLOCKED_IDS, blocked_ids.shape[0]
    common.require(count <= limit, op, "blocked_ids", f"have at most {limit} ids", count)
    for token in blocked_ids.tolist():
        common.require(
            0 <= token < logits.shape[1],
            op,
            "blocked_ids",
            f"be in [0, vocab) = [0, {logits.shape[1]})",
            token,
        )
