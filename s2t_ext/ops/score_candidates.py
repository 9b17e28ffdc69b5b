"""Score: wrapper and fake."""

from typing import Any

import torch
from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind, default_bin_values


def score_candidates(
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None = None,
    bin_values: Tensor | None = None,
    bin_temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Expected bin value of every candidate, from the reserved rows of the head only.

    score = sum_r v_r softmax(z / bin_temperature)_r with z = rows . h + bias, then
    z <- logit_scale z, then z <- softcap tanh(z / softcap).

    Args:
        hidden: float32, bfloat16 or float16 [num_candidates, hidden_size]: the state after the
            candidate, as the head takes it; last stride 1.
        rows: float32, bfloat16 or float16 [num_bins, hidden_size], 1 to 64 bins; last stride 1.
        bias: the same dtypes [num_bins], or none.
        bin_values: float32 [num_bins]; default linspace(0, 1, num_bins).
        bin_temperature: positive.
        logit_scale: what the model multiplies its logits by (Cohere, Granite).
        softcap: what the model caps its logits with (Gemma 2), positive, or none.

    Returns:
        float32 [num_candidates]; NaN where a logit is NaN or +inf.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device, or a scalar out of range.

    Source: the score of S2T-LOCAL (arXiv 2604.26940); R = 16 bins there.
    """
    if bin_values is None:
        bin_values = default_bin_values(rows)
    scores: Tensor = _op(
        hidden=hidden,
        rows=rows,
        bias=bias,
        bin_values=bin_values,
        bin_temperature=bin_temperature,
        logit_scale=logit_scale,
        softcap=softcap,
    )
    return scores


def _fake(hidden: Tensor, **_: Any) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=torch.float32)


_op = bind("score_candidates", reference.score_candidates, _fake)
