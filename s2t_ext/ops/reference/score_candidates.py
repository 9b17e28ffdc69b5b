"""Score: the expected bin value a candidate's reserved-row logits speak for."""

import math

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common

_OP = "score_candidates"


def score_candidates(
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None = None,
    bin_values: Tensor | None = None,
    bin_temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """See `s2t_ext.ops.score_candidates`."""
    common.require_rank(_OP, "hidden", hidden, 2, "[num_candidates, hidden_size]")
    check_head(_OP, hidden, rows, bias, bin_values, bin_temperature, logit_scale, softcap)
    return expected_bin_value(
        hidden, rows, bias, bin_values, bin_temperature, logit_scale, softcap
    ).float()


def expected_bin_value(
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    bin_values: Tensor | None,
    bin_temperature: float,
    logit_scale: float,
    softcap: float | None,
) -> Tensor:
    """sum_r v_r softmax(z / T)_r in float64; z = softcap(scale (rows . h + bias))."""
    z = hidden.double() @ rows.double().T
    if bias is not None:
        z = z + bias.double()
    z = z * logit_scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if bin_values is None:
        bin_values = torch.linspace(0, 1, rows.shape[0], device=rows.device)
    return torch.softmax(z / bin_temperature, dim=-1) @ bin_values.double()


def check_head(
    op: str,
    hidden: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    bin_values: Tensor | None,
    bin_temperature: float,
    logit_scale: float,
    softcap: float | None,
) -> None:
    """Checks of the score head, shared with `score_and_select`."""
    common.require_dtype(op, "hidden", hidden, common.LOGIT_DTYPES)
    common.require_rank(op, "rows", rows, 2, "[num_bins, hidden_size]")
    common.require_dtype(op, "rows", rows, common.LOGIT_DTYPES)
    common.require_device(op, "rows", rows, hidden, "hidden")
    num_bins, size = rows.shape
    limit = common.MAX_BINS
    common.require(1 <= num_bins <= limit, op, "rows", f"have 1 to {limit} rows", num_bins)
    common.require_shape(op, "rows", rows, (num_bins, hidden.shape[-1]), "[num_bins, hidden_size]")
    if bias is not None:
        common.require_dtype(op, "bias", bias, common.LOGIT_DTYPES)
        common.require_device(op, "bias", bias, hidden, "hidden")
        common.require_shape(op, "bias", bias, (num_bins,), "[num_bins]")
    if bin_values is not None:
        common.require_dtype(op, "bin_values", bin_values, (torch.float32,))
        common.require_device(op, "bin_values", bin_values, hidden, "hidden")
        common.require_shape(op, "bin_values", bin_values, (num_bins,), "[num_bins]")
    _require_positive(op, "bin_temperature", bin_temperature)
    common.require(math.isfinite(logit_scale), op, "logit_scale", "be finite", logit_scale)
    if softcap is not None:
        _require_positive(op, "softcap", softcap)


def _require_positive(op: str, argument: str, value: float) -> None:
    is_positive = math.isfinite(value) and value > 0
    common.require(is_positive, op, argument, "be positive and finite", value)
