"""Calls of sample_token, and what they should draw."""

import torch
from torch import Tensor

from s2t_ext import ops, reference
from s2t_ext.testing import assert_close, same_everywhere


def normal(batch, vocab, scale=2.0, seed=0):
    return torch.randn(batch, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def options(batch, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=5, first_position=0):
    """Arguments after the logits: the same for every row, but for the position."""
    return (
        torch.full((batch,), temperature),
        torch.full((batch,), top_k),
        torch.full((batch,), top_p),
        torch.full((batch,), min_p),
        torch.full((batch,), seed),
        torch.arange(first_position, first_position + batch),
    )


def probabilities(row, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> Tensor:
    """float64 [vocab], written for one ordinary row without looking at the reference."""
    order = sorted(range(len(row)), key=lambda i: (-float(row[i]), i))
    p = torch.softmax(row.double() / temperature, 0)[order]
    if top_k:
        p[p < p[min(top_k, len(p)) - 1]] = 0  # what equals the k-th is kept
        p /= p.sum()
    before = p.cumsum(0) - p
    if top_p < 1:
        p[before >= top_p] = 0
    p[p < min_p * p[0]] = 0
    return torch.zeros_like(p).scatter(0, torch.tensor(order), p / p.sum())


def run(logits, arguments, blocked_ids=None):
    return same_everywhere(lambda: ops.sample_token(logits, *arguments, blocked_ids=blocked_ids))


def check(logits, arguments, blocked_ids=None):
    """Equal to the reference. Only where no number drawn lies within rounding of a boundary."""
    actual = run(logits, arguments, blocked_ids)
    expected = reference.sample_token(logits, *arguments, blocked_ids=blocked_ids)
    assert torch.equal(actual.token, expected.token), f"{actual.token} is not {expected.token}"
    assert_close(actual.logprob, expected.logprob, what="logprob")
    return actual


TRUNCATIONS = [
    {},
    {"top_k": 2},
    {"top_k": 50},
    {"top_k": 64},
    {"top_k": 65},
    {"top_k": 300},
    {"top_k": 10**6},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.9999},
    {"top_p": 0.0},
    {"min_p": 0.05},
    {"min_p": 1e-4},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
    {"top_k": 200, "top_p": 0.97},
    {"top_p": 0.9, "min_p": 1e-3},
    {"top_k": 500, "top_p": 0.99, "min_p": 1e-3},
]
