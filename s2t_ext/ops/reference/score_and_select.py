"""Score and select in one: the decision of one step, from hidden states to tokens."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common
from s2t_ext.ops.reference.score_candidates import check_head, expected_bin_value
from s2t_ext.ops.reference.select_token import check_rows, choose

_OP = "score_and_select"


class ScoredSelection(NamedTuple):
    """Result of `score_and_select`."""

    token: Tensor  # int64 [batch]
    slot: Tensor  # int64 [batch]; place of the token among the candidates, 0 if none was chosen
    scores: Tensor  # float32 [batch, k], the totals compared; -inf where nothing was scored
    refused: Tensor  # bool [batch]; the margin kept the first candidate


def score_and_select(
    hidden: Tensor,
    rows: Tensor,
    *,
    ids: Tensor,
    candidate_logprobs: Tensor,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    pad_id: int,
    bias: Tensor | None = None,
    bin_values: Tensor | None = None,
    bin_temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    prior_weight: float = 0.0,
    score_temperature: float = 0.0,
    seed: Tensor | None = None,
    position: Tensor | None = None,
    override_margin: float = 0.0,
) -> ScoredSelection:
    """See `s2t_ext.ops.score_and_select`."""
    common.require_rank(_OP, "hidden", hidden, 3, "[batch, k, hidden_size]")
    check_head(_OP, hidden, rows, bias, bin_values, bin_temperature, logit_scale, softcap)
    check_rows(_OP, ids, triggered, default_token, finished, score_temperature, seed, position)
    common.require_shape(_OP, "ids", ids, hidden.shape[:2], "[batch, k]")
    common.require_device(_OP, "ids", ids, hidden, "hidden")
    common.require_dtype(_OP, "candidate_logprobs", candidate_logprobs, (torch.float32,))
    common.require_shape(
        _OP, "candidate_logprobs", candidate_logprobs, hidden.shape[:2], "[batch, k]"
    )
    common.require_device(_OP, "candidate_logprobs", candidate_logprobs, hidden, "hidden")
    common.require(math.isfinite(prior_weight), _OP, "prior_weight", "be finite", prior_weight)
    is_margin = math.isfinite(override_margin) and override_margin >= 0
    common.require(is_margin, _OP, "override_margin", "be at least 0 and finite", override_margin)

    total = expected_bin_value(
        hidden, rows, bias, bin_values, bin_temperature, logit_scale, softcap
    )
    if prior_weight != 0:
        total = total + prior_weight * candidate_logprobs.double()
    # Slots that take part in no choice are not scored: their hidden states mean nothing.
    is_scored = (triggered & ~finished)[:, None] & (ids >= 0) & ~total.isnan()
    scores = torch.where(is_scored, total, -math.inf)
    choice = choose(
        ids, scores, triggered, default_token, finished, pad_id, score_temperature, seed, position
    )
    refused = _is_refused(scores, choice.slot, override_margin)
    return ScoredSelection(
        torch.where(refused, ids[:, 0], choice.token),
        choice.slot.masked_fill(refused, 0),
        scores.float(),
        refused,
    )


def _is_refused(scores: Tensor, slot: Tensor, margin: float) -> Tensor:
    """Rows whose choice is not better than the first candidate by more than the margin."""
    first, chosen = scores[:, 0], scores.gather(1, slot[:, None]).squeeze(1)
    if margin == 0:
        return torch.zeros_like(slot, dtype=torch.bool)
    # -inf: a first candidate that cannot be chosen is not kept.
    return (slot != 0) & (first > -math.inf) & ~(chosen - first > margin)
