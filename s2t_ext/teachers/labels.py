"""What a teacher says of a finished trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch


class TopTokens(NamedTuple):
    """The teacher's likeliest tokens at every step of a trajectory.

    Attributes:
        ids: int64 [length, N], best first; a place that no token takes repeats the first one.
        logprobs: fp32 [length, N + 1], log-probabilities of these tokens (-inf where a place
            repeats) and, in the last column, of all other tokens together.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor


class TrajectoryLabels(NamedTuple):
    """What a teacher says of a finished trajectory; the first three fields are `SupportKL`'s.

    Attributes:
        kl: fp32 [length], KL(student || teacher) on the student's support, nats.
        candidate_logprobs: fp32 [length, S], the teacher's log-probabilities of the support.
        teacher_argmax: int64 [length], the teacher's likeliest token.
        top: The likeliest tokens, if they were asked for.
    """

    kl: torch.Tensor
    candidate_logprobs: torch.Tensor
    teacher_argmax: torch.Tensor
    top: TopTokens | None = None


def top_tokens(logits: torch.Tensor, count: int) -> TopTokens:
    """The `count` likeliest tokens of logits [length, V]; NaN counts as -inf."""
    known = logits.float().masked_fill(logits.isnan(), -math.inf)
    best = known.topk(min(count, known.shape[1]), dim=1)
    total = known.logsumexp(dim=1, keepdim=True)
    others = known.scatter_(1, best.indices, -math.inf).logsumexp(dim=1, keepdim=True)
    return TopTokens(best.indices, torch.cat([best.values, others], dim=1) - total)


def listed_tokens(listed: Sequence[Mapping[int, float]], count: int) -> TopTokens:
    """The `count` likeliest of tokens listed with their log-probabilities, a list per step; what
    is left of the probability belongs to the others.
    """
    ids = torch.zeros(len(listed), count, dtype=torch.int64)
    logprobs = torch.full((len(listed), count + 1), -math.inf)
    for row, entries in enumerate(listed):
        best = sorted(entries.items(), key=lambda entry: (-entry[1], entry[0]))[:count]
        rest = 1.0 - math.fsum(math.exp(value) for _, value in best)
        ids[row] = best[0][0] if best else 0
        ids[row, : len(best)] = torch.tensor([token for token, _ in best], dtype=torch.int64)
        logprobs[row, : len(best)] = torch.tensor([value for _, value in best])
        logprobs[row, -1] = math.log(rest) if rest > 0 else -math.inf
    return TopTokens(ids, logprobs)
