"""A sanity bar: what can be learnt of the teacher's choices from the last words alone.

A linear model of hashed n-grams reads no hidden state. A selector that does not beat it on the same
held-out groups has learnt nothing that a table of phrases does not hold.

    total(c) = w log p(c) + sum over n = 0..4 of table[hash(n, last n tokens, c)]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from s2t_ext.distillation.groups import Trajectory
from s2t_ext.distillation.losses import favourite
from s2t_ext.distillation.quality.overrides import choose_margin, count_overrides, override_choices

#: Longest context, tokens.
ORDER = 4
TABLE_BITS = 20
EPOCHS, BATCH, LEARNING_RATE = 4, 256, 0.1
_MULTIPLIER = 6364136223846793005  # of a 64-bit linear congruential generator (Knuth, MMIX)


class NgramModel:
    """The model, trained on the groups of trajectories by KL(teacher || softmax of the totals).

    Args:
        trajectories: With labelled groups.
        k: Candidates of each group that count, at most.
        seed: Of the order of the groups.
    """

    def __init__(self, trajectories: Sequence[Trajectory], k: int, seed: int = 0) -> None:
        self.k = k
        self.table = nn.Embedding(1 << TABLE_BITS, 1)
        self.prior = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.table.weight)
        keys, logprobs, mask, teacher = grouped(trajectories, k)
        teacher = teacher / teacher.sum(dim=1, keepdim=True).clamp(min=1e-30)
        parameters = [self.table.weight, self.prior]
        optimizer = torch.optim.Adagrad(parameters, lr=LEARNING_RATE)
        for own in _batches(len(keys), seed):
            totals = self._totals(keys[own], logprobs[own], mask[own])
            log_q = totals.masked_fill(~mask[own], -1e30).log_softmax(dim=1)
            loss = -(teacher[own] * log_q.masked_fill(~mask[own], 0.0)).sum() / len(own)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.no_grad()
    def totals(self, trajectories: Sequence[Trajectory]) -> torch.Tensor:
        """[G, K] of the groups of trajectories, in their order."""
        keys, logprobs, mask, _ = grouped(trajectories, self.k)
        return self._totals(keys, logprobs, mask)

    def _totals(
        self, keys: torch.Tensor, logprobs: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        prior = self.prior * logprobs.masked_fill(~mask, 0.0)
        entries: torch.Tensor = self.table(keys)
        return prior + entries.squeeze(-1).sum(dim=-1)


def ngram_bar(
    training: Sequence[Trajectory],
    held_out: Sequence[Trajectory],
    k: int,
    entropy_threshold: float | None,
    harm_limit: float | None,
) -> dict[str, float]:
    """`ngram_agreement` and `ngram_net_recall` of `Quality`.

    Args:
        training: Trajectories that the model of n-grams learns from.
        held_out: Those it is measured on.
        k: Candidates at decoding.
        entropy_threshold: Of the trigger, nats, or None for all groups.
        harm_limit: Of its own override margin; None takes none.
    """
    totals = NgramModel(training, k).totals(held_out)
    _, _, mask, teacher = grouped(held_out, k)
    entropy = torch.tensor([g.entropy for t in held_out for g in t.groups])
    best = favourite(mask, teacher)
    agreement = (override_choices(totals, mask) == best).double().mean()
    if entropy_threshold is not None and not bool(entropy.isnan().any()):
        fires = entropy > entropy_threshold
        totals, mask, teacher = totals[fires], mask[fires], teacher[fires]
    margin = 0.0 if harm_limit is None else choose_margin(totals, mask, teacher, harm_limit)
    found = count_overrides(totals, mask, teacher, margin)
    return {"ngram_agreement": float(agreement), "ngram_net_recall": found.net_recall}


def grouped(
    trajectories: Sequence[Trajectory], k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(n-gram keys int64 [G, K, ORDER + 1], log-probabilities, mask, teacher probabilities [G, K])
    of all groups.
    """
    contexts, candidates, logprobs, teacher = [], [], [], []
    for trajectory in trajectories:
        tokens = (*trajectory.prompt, *trajectory.response)
        for group in trajectory.groups:
            end = len(trajectory.prompt) + group.step
            last = tokens[max(0, end - ORDER) : end]
            contexts.append([-1] * (ORDER - len(last)) + list(last))
            candidates.append(_padded(group.candidates, k, -1))
            logprobs.append(_padded(group.student_logprobs, k, -math.inf))
            teacher.append(_padded(group.teacher_probs, k, 0.0))
    ids = torch.tensor(candidates, dtype=torch.int64).view(-1, k)
    keys = ngram_keys(torch.tensor(contexts, dtype=torch.int64).view(-1, ORDER), ids)
    own, others = (torch.tensor(rows).view(-1, k) for rows in (logprobs, teacher))
    return keys, own, ids >= 0, others


def _padded(values: Sequence[Any], k: int, fill: Any) -> list[Any]:
    return [*values[:k], *[fill] * (k - len(values))]


def ngram_keys(context: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Places in the table, int64 [G, K, ORDER + 1], of the last tokens [G, ORDER] and candidates
    [G, K].
    """
    keys = []
    state = candidates * _MULTIPLIER + 1
    for n in range(ORDER + 1):
        if n:
            state = (state ^ (context[:, ORDER - n, None] + 2)) * _MULTIPLIER + n
        keys.append((state >> 24) & ((1 << TABLE_BITS) - 1))  # the high bits are the mixed ones
    return torch.stack(keys, dim=2)


def _batches(count: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        yield from torch.randperm(count, generator=generator).split(BATCH)
