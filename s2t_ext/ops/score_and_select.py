"""Score and select in one launch: wrapper and fake."""

from typing import Any

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
    override_margin: float = 0.0,
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
        override_margin: another candidate takes the place of the first one only if its total is
            higher by more than this; 0 asks for no margin. When drawing (score_temperature above
            0) the rule is applied to the slot that was drawn. A first candidate that cannot be
            chosen (id -1, or a total of -inf) is not kept.

    Returns:
        ScoredSelection: token and slot, int64 [batch]; scores float32 [batch, k], the totals that
        were compared, -inf where nothing was scored or the total is NaN; refused bool [batch], in
        which rows the margin kept the first candidate in place of the chosen one.

    Raises:
        RuntimeError: as `score_candidates` and `select_token`; override_margin is negative or not
            finite.

    Source: S2T-LOCAL (arXiv 2604.26940); the prior term and the margin are this library's.
    """
    if bin_values is None:
        bin_values = default_bin_values(rows)
    seed, position = random_state(
        "score_and_select", score_temperature, seed, position, default_token
    )
    return ScoredSelection._make(
        _op(
            hidden=hidden,
            rows=rows,
            bias=bias,
            bin_values=bin_values,
            bin_temperature=bin_temperature,
            logit_scale=logit_scale,
            softcap=softcap,
            ids=ids,
            candidate_logprobs=candidate_logprobs,
            prior_weight=prior_weight,
            triggered=triggered,
            default_token=default_token,
            finished=finished,
            pad_id=pad_id,
            score_temperature=score_temperature,
            seed=seed,
            position=position,
            override_margin=override_margin,
        )
    )


def _fake(hidden: Tensor, ids: Tensor, triggered: Tensor, **_: Any) -> tuple[Tensor, ...]:
    batch, k = ids.shape
    scores = hidden.new_empty((batch, k), dtype=torch.float32)
    return ids.new_empty(batch), ids.new_empty(batch), scores, triggered.new_empty(batch)


_op = bind("score_and_select", reference.score_and_select, _fake)
