"""Score and select in one launch: wrapper and fake."""

import torch
from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind, default_bin_values, random_state
from s2t_ext.ops.reference.score_and_select import ScoredSelection


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
) -> ScoredSelection:
    """`score_candidates`, the prior term and `select_token` in one call.

    total = score + prior_weight * candidate_logprobs; with prior_weight 0 the log-probabilities
    are not read. Slots with id -1 and rows that are finished or not triggered are not scored, and
    their hidden states not read.

    Args:
        hidden: float32, bfloat16 or float16 [batch, k, hidden_size], last stride 1.
        rows: As in `score_candidates`.
        bias: As in `score_candidates`.
        bin_values: As in `score_candidates`.
        bin_temperature: As in `score_candidates`.
        logit_scale: As in `score_candidates`.
        softcap: As in `score_candidates`.
        ids: As in `select_token`.
        triggered: As in `select_token`.
        default_token: As in `select_token`.
        finished: As in `select_token`.
        pad_id: As in `select_token`.
        score_temperature: As in `select_token`.
        seed: As in `select_token`.
        position: As in `select_token`.
        candidate_logprobs: float32 [batch, k], log p of the candidate under the proposing model.
        prior_weight: weight of the log-probability; 0 is the paper's score.

    Returns:
        ScoredSelection: token and slot, int64 [batch]; scores float32 [batch, k], the totals that
        were compared, -inf where nothing was scored or the total is NaN.

    Raises:
        RuntimeError: as `score_candidates` and `select_token`.

    Source: S2T-LOCAL (arXiv 2604.26940); the prior term is this library's.
    """
    if bin_values is None:
        bin_values = default_bin_values(rows)
    seed, position = random_state(
        "score_and_select", score_temperature, seed, position, default_token
    )
    return ScoredSelection._make(
        _op(
            hidden,
            rows,
            bias,
            bin_values,
            bin_temperature,
            logit_scale,
            softcap,
            ids,
            candidate_logprobs,
            prior_weight,
            triggered,
            default_token,
            finished,
            pad_id,
            score_temperature,
            seed,
            position,
        )
    )


def _reference(
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    bin_values: Tensor,
    bin_temperature: float,
    logit_scale: float,
    softcap: float | None,
    ids: Tensor,
    candidate_logprobs: Tensor,
    prior_weight: float,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    pad_id: int,
    score_temperature: float,
    seed: Tensor,
    position: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The reference with the arguments in the order of the schema."""
    return reference.score_and_select(
        hidden,
        rows,
        ids=ids,
        candidate_logprobs=candidate_logprobs,
        triggered=triggered,
        default_token=default_token,
        finished=finished,
        pad_id=pad_id,
        bias=bias,
        bin_values=bin_values,
        bin_temperature=bin_temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        prior_weight=prior_weight,
        score_temperature=score_temperature,
        seed=seed,
        position=position,
    )


def _fake(
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    bin_values: Tensor,
    bin_temperature: float,
    logit_scale: float,
    softcap: float | None,
    ids: Tensor,
    candidate_logprobs: Tensor,
    prior_weight: float,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    pad_id: int,
    score_temperature: float,
    seed: Tensor,
    position: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, k = ids.shape
    scores = hidden.new_empty((batch, k), dtype=torch.float32)
    return ids.new_empty(batch), ids.new_empty(batch), scores


_op = bind("score_and_select", _reference, _fake)
