"""Select: the best-scored candidate of every triggered row, the ordinary token of the others."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common
from s2t_ext.ops.reference.philox import PURPOSE_SELECT_TOKEN, uniform24

_OP = "select_token"


class SelectedToken(NamedTuple):
    """Result of `select_token`."""

    token: Tensor  # int64 [batch]
    slot: Tensor  # int64 [batch]; place of the token among the candidates, 0 if none was chosen


def select_token(
    ids: Tensor,
    scores: Tensor,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    pad_id: int,
    score_temperature: float = 0.0,
    seed: Tensor | None = None,
    position: Tensor | None = None,
) -> SelectedToken:
    """See `s2t_ext.ops.select_token`."""
    common.require_dtype(_OP, "scores", scores, (torch.float32,))
    check_rows(_OP, ids, triggered, default_token, finished, score_temperature, seed, position)
    common.require_shape(_OP, "scores", scores, ids.shape, "[batch, k]")
    common.require_device(_OP, "scores", scores, ids, "ids")
    return choose(
        ids, scores, triggered, default_token, finished, pad_id, score_temperature, seed, position
    )


def choose(
    ids: Tensor,
    scores: Tensor,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    pad_id: int,
    score_temperature: float,
    seed: Tensor | None,
    position: Tensor | None,
) -> SelectedToken:
    """The choice itself, without checks; `scores` in any precision."""
    # NaN > -inf is false: a NaN score is never chosen.
    is_usable = (ids >= 0) & (scores > -math.inf)
    usable_scores = torch.where(is_usable, scores.double(), -math.inf)
    if score_temperature > 0:
        assert seed is not None and position is not None
        u = uniform24(seed, position, PURPOSE_SELECT_TOKEN)
        slot = _sample_slot(usable_scores, is_usable, score_temperature, u)
    else:
        slot = usable_scores.argmax(dim=1)  # the first of equals
    chooses = triggered & ~finished & is_usable.any(dim=1)
    chosen = ids.gather(1, slot[:, None]).squeeze(1)
    token = torch.where(finished, pad_id, torch.where(chooses, chosen, default_token))
    return SelectedToken(token, torch.where(chooses, slot, 0))


def _sample_slot(scores: Tensor, is_usable: Tensor, temperature: float, u: Tensor) -> Tensor:
    """First slot whose cumulated weight e^((score - best) / T) exceeds u times the total."""
    best = scores.max(dim=1, keepdim=True).values
    # Equality first: at +inf the difference of equals is NaN.
    weight = torch.where(scores == best, 1.0, ((scores - best) / temperature).exp())
    cumulated = (weight * is_usable).cumsum(dim=1)
    slot = (cumulated <= u[:, None] * cumulated[:, -1:]).sum(dim=1)
    slots = torch.arange(scores.shape[1], device=scores.device)
    last_usable = torch.where(is_usable, slots, 0).max(dim=1).values
    return torch.minimum(slot, last_usable)


def check_rows(
    op: str,
    ids: Tensor,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    score_temperature: float,
    seed: Tensor | None,
    position: Tensor | None,
) -> None:
    """Checks of everything but the scores, shared with `score_and_select`."""
    common.require_rank(op, "ids", ids, 2, "[batch, k]")
    common.require_dtype(op, "ids", ids, (torch.int64,))
    batch, k = ids.shape
    limit = common.MAX_CANDIDATES
    common.require(1 <= k <= limit, op, "ids", f"have 1 to {limit} columns", k)
    rows = [
        ("triggered", triggered, torch.bool),
        ("default_token", default_token, torch.int64),
        ("finished", finished, torch.bool),
    ]
    is_temperature = math.isfinite(score_temperature) and score_temperature >= 0
    common.require(
        is_temperature, op, "score_temperature", "be at least 0 and finite", score_temperature
    )
    if score_temperature > 0:
        for argument, tensor in (("seed", seed), ("position", position)):
            requirement = "be given when score_temperature > 0"
            common.require(tensor is not None, op, argument, requirement, None)
            assert tensor is not None
            rows.append((argument, tensor, torch.int64))
    for argument, tensor, dtype in rows:
        common.require_dtype(op, argument, tensor, (dtype,))
        common.require_shape(op, argument, tensor, (batch,), "[batch]")
        common.require_device(op, argument, tensor, ids, "ids")
