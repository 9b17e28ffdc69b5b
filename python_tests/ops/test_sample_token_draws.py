"""The draws of sample_token: their distribution, and what they do not depend on.

The draw itself is a function of the seeds, so nothing here is random from run to run; the
chi-square tests say how often they would fail if the seeds were drawn anew.
"""

import math

import pytest
import torch
from sampling import TRUNCATIONS, check, normal, options, probabilities, run

from s2t_ext import ops
from s2t_ext.ops.reference.philox import PURPOSE_SAMPLE_TOKEN, uniform53
from s2t_ext.testing import assert_same_bits, threads

# ---- distribution --------------------------------------------------------------------------------

DRAWS = 30_000
# Each kind of draw: within the 64 best, over chunk sums, a wide nucleus, a long top-k list.
DISTRIBUTIONS = [
    (40, {}),
    (900, {"top_k": 20, "temperature": 0.8}),
    (900, {}),
    (2500, {"temperature": 1.4}),
    (900, {"top_p": 0.9}),
    (900, {"top_k": 150, "top_p": 0.98}),
    (900, {"min_p": 0.01, "temperature": 1.2}),
]


@pytest.mark.parametrize("vocab, parameters", DISTRIBUTIONS, ids=str)
def test_frequencies_match_the_probabilities(vocab, parameters):
    """Chi-square at the 1e-6 level: one in a million choices of the seed would fail."""
    row = normal(1, vocab, 1.0, seed=vocab)[0]
    expected = probabilities(row, **parameters)
    arguments = options(DRAWS, seed=77, **parameters)
    token = ops.sample_token(row.expand(DRAWS, vocab), *arguments).token
    counts = torch.bincount(token, minlength=vocab).double()
    assert (counts[expected == 0] == 0).all(), "a token outside of the kept set was drawn"

    # Bins of at least 10 expected draws: tokens in the order of their probability, joined.
    order = expected.argsort()
    bin_of = (expected[order].cumsum(0) * DRAWS // 10).long()
    bins = int(bin_of.max()) + 1
    observed = torch.zeros(bins, dtype=torch.float64).scatter_add_(0, bin_of, counts[order])
    wanted = torch.zeros(bins, dtype=torch.float64).scatter_add_(0, bin_of, expected[order])
    is_used = wanted > 0
    observed, wanted = observed[is_used], wanted[is_used] * DRAWS
    statistic = ((observed - wanted) ** 2 / wanted).sum().item()
    freedom = observed.numel() - 1
    # Wilson and Hilferty: (chi2 / n)^(1/3) is nearly normal; 4.76 deviations are 1e-6.
    spread = math.sqrt(2 / (9 * freedom))
    deviations = ((statistic / freedom) ** (1 / 3) - (1 - spread**2)) / spread
    assert deviations < 4.76, f"chi-square {statistic:.1f} with {freedom} degrees of freedom"


@pytest.mark.parametrize("parameters", [{"top_k": 30}, {"top_k": 90}, {"top_p": 0.8}], ids=str)
def test_every_kept_token_is_drawn_and_no_other(parameters):
    row = normal(1, 1500, 0.3)[0]
    kept = probabilities(row, **parameters) > 0
    draws = 60 * int(kept.sum())
    token = ops.sample_token(row.expand(draws, -1), *options(draws, **parameters)).token
    assert torch.equal(torch.bincount(token, minlength=1500) > 0, kept)


def test_a_flat_row_reaches_every_token():
    vocab, draws = 20_000, 1_000
    token = ops.sample_token(torch.zeros(1, vocab).expand(draws, -1), *options(draws)).token
    u = uniform53(*options(draws)[4:], PURPOSE_SAMPLE_TOKEN)
    assert torch.equal(token, (u * vocab).long())


def test_seeds_and_positions_give_unlike_draws():
    row = torch.zeros(1, 30_000).expand(200, -1)
    first = ops.sample_token(row, *options(200, seed=1)).token
    assert first.unique().numel() > 190
    for other in (
        options(200, seed=2),
        options(200, seed=1 << 32),
        options(200, 1.0, 0, 1.0, 0.0, 1, 200),
    ):
        assert (ops.sample_token(row, *other).token == first).sum() < 5
    again = ops.sample_token(row, *options(200, seed=1)).token
    assert torch.equal(first, again)


# ---- independence --------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", TRUNCATIONS[::4], ids=str)
def test_a_request_draws_the_same_alone_and_in_a_batch(parameters):
    logits = normal(16, 3000, 1.0)
    arguments = options(16, 0.9, **parameters)
    together = run(logits, arguments)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    for rows in (order, torch.tensor([7]), torch.arange(3, 6)):
        result = ops.sample_token(logits[rows], *(a[rows] for a in arguments))
        for actual, expected in zip(result, together, strict=True):
            assert_same_bits(actual, expected[rows])


@pytest.mark.parametrize("batch", [1, 3])
def test_any_number_of_threads_draws_the_same(batch):
    logits = normal(batch, 60_000, 1.0)
    arguments = options(batch, 1.1, top_p=0.97)
    expected = ops.sample_token(logits, *arguments)
    for count in (1, 2, 5, 16):
        with threads(count):
            for actual, wanted in zip(ops.sample_token(logits, *arguments), expected, strict=True):
                assert_same_bits(actual, wanted, f"{count} threads")


def test_any_layout_draws_the_same():
    logits = normal(5, 2100)
    arguments = options(5, top_p=0.9)
    expected = check(logits, arguments)
    wide = torch.full((5, 2107), math.nan)
    wide[:, 3:2103] = logits
    spread = tuple(a.repeat_interleave(3)[::3] for a in arguments)
    for other in (wide[:, 3:2103], logits.T.contiguous().T):
        assert not other.is_contiguous()
        for actual, wanted in zip(ops.sample_token(other, *spread), expected, strict=True):
            assert_same_bits(actual, wanted)
