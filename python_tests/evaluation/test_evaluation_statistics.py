"""Intervals and tests against values worked out elsewhere."""

import itertools
import math

import pytest
import torch

from s2t_ext.runs.statistics import (
    bootstrap,
    cluster_sums,
    compare,
    mcnemar,
    mcnemar_power,
    sign_flip,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (17, 32, 0.3645, 0.6914),
    ],
)
def test_wilson(successes, trials, low, high):
    """Published examples of the score interval."""
    estimate = wilson(successes, trials)
    assert estimate.value == successes / trials
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=2e-4)


def test_wilson_bounds_are_as_many_standard_errors_away_as_its_level_says():
    for right, count in ((7, 32), (43, 200), (1, 5)):
        estimate = wilson(right, count)
        for bound in (estimate.low, estimate.high):
            error = math.sqrt(bound * (1 - bound) / count)
            assert abs(right / count - bound) == pytest.approx(1.959964 * error)


def test_wilson_of_nothing():
    assert wilson(0, 0).to_dict() == {"value": None, "low": 0.0, "high": 1.0}
    with pytest.raises(ValueError, match=r"successes must be in \[0, 3\], got 4"):
        wilson(4, 3)


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(10, 0) == pytest.approx(2 / 2**10)
    assert mcnemar(1, 8) == mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)


def test_compare():
    first = [True] * 6 + [False] * 4
    second = [True] * 2 + [False] * 7 + [True]
    found = compare(first, second)
    assert (found.wins, found.losses, found.ties) == (4, 1, 5)
    assert found.difference.value == pytest.approx(0.3)
    assert found.difference.low < 0.3 < found.difference.high
    assert found.p_value == pytest.approx(2 * 6 / 32)
    other = compare(second, first)
    assert (other.wins, other.losses, other.difference.value) == (1, 4, pytest.approx(-0.3))
    with pytest.raises(ValueError, match="second must have 2 results"):
        compare([True, False], [True])


@pytest.mark.parametrize("sums", [[5, 3, 1, 1, -2, 0], [1] * 8, [4, -4], [], [0, 0], [7, 1, -1]])
def test_sign_flip_counts_all_assignments(sums):
    totals = [
        sum(s * v for s, v in zip(signs, sums, strict=True))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    extreme = sum(abs(total) >= abs(sum(sums)) for total in totals)
    assert sign_flip(sums) == extreme / len(totals)


def test_sign_flip_of_single_problems_is_mcnemar():
    for wins, losses in ((9, 2), (5, 5), (8, 0)):
        assert sign_flip([1] * wins + [-1] * losses) == pytest.approx(mcnemar(wins, losses))


def test_templates_count_once():
    """Eight wins of one template are one piece of evidence."""
    first, second = [True] * 8 + [False] * 4, [False] * 12
    found = compare(first, second, ["a"] * 8 + ["b", "c", "", ""])
    assert found.clusters == 5 and found.cluster_p_value == 1.0
    assert found.p_value == pytest.approx(2 / 2**8)
    assert found.cluster_difference.value == found.difference.value == pytest.approx(8 / 12)
    assert found.cluster_difference.low == 0 < found.difference.low
    alone = compare(first, second)
    assert alone.clusters == 12 and alone.cluster_p_value == pytest.approx(alone.p_value)
    with pytest.raises(ValueError, match="compare: groups must have 12 results, got 1"):
        compare(first, second, ["a"])
    assert cluster_sums([1, 1, -1], ["x", "", "x"]) == [(0, 2), (1, 1)]


def test_power_is_the_share_of_rejections():
    """Against drawing the counts of 100 problems 4,000 times."""
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.12, 0.04, 0.84])
    drawn = torch.multinomial(chances.expand(4000, 3), 100, True, generator=generator)
    rejected = [mcnemar(int((row == 0).sum()), int((row == 1).sum())) <= 0.05 for row in drawn]
    share = sum(rejected) / len(rejected)
    assert mcnemar_power(100, 0.12, 0.04) == pytest.approx(share, abs=0.025)  # 3 deviations
    assert mcnemar_power(100, 0.05, 0.05) <= 0.05
    assert mcnemar_power(2000, 0.12, 0.04) > 0.999


def test_bootstrap_covers_like_the_normal_interval():
    """400 units of deviation 1: the interval of the mean is about +-0.098 around it."""
    data = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mean = bootstrap(400, lambda rows: {"mean": float(data[rows].mean())}, samples=2000)["mean"]
    half = 1.96 * float(data.std()) / 20
    assert mean.value == float(data.mean())
    assert mean.low == pytest.approx(mean.value - half, abs=0.01)
    assert mean.high == pytest.approx(mean.value + half, abs=0.01)


def test_bootstrap_leaves_undefined_resamples_out():
    def statistic(rows):
        return {"share": 1.0 if 0 in rows.tolist() else math.nan}

    share = bootstrap(3, statistic, samples=50)["share"]
    assert (share.value, share.low, share.high) == (1.0, 1.0, 1.0)
    undefined = bootstrap(3, lambda rows: {"x": math.nan}, samples=5)["x"]
    assert undefined.to_dict() == {"value": None, "low": None, "high": None}
