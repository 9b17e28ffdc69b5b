"""Intervals and paired tests for answers that are right or wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

#: Standard normal quantile of a 95 % interval.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where there is nothing to estimate."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON values; NaN is None."""
        return {k: v if math.isfinite(v) else None for k, v in asdict(self).items()}


def wilson(successes: int, trials: int) -> Estimate:
    """A share with its Wilson score interval (Wilson 1927).

    Raises:
        ValueError: unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"wilson: successes must be in [0, {trials}], got {successes}")
    if trials == 0:
        return Estimate(math.nan, 0.0, 1.0)
    p, z2 = successes / trials, Z95**2
    center = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # At 0 and 1 the bound is exact; rounding must not leave the interval without its value.
    return Estimate(p, min(p, max(0.0, center - half)), max(p, min(1.0, center + half)))


def bootstrap(
    units: int,
    statistic: Callable[[torch.Tensor], dict[Any, float]],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[Any, Estimate]:
    """Percentile intervals of statistics under resampling of units (problems).

    Args:
        units: Number of units.
        statistic: From int64 [units] (indices, with repetitions) to named values; called once with
            all units in order for the values, and `samples` times for the intervals.
        samples: Resamples.
        seed: Of the resampling.

    Returns:
        The estimates, under the statistic's names. NaN values of a resample are left out.
    """
    values = statistic(torch.arange(units))
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[Any, list[float]] = {name: [] for name in values}
    for _ in range(samples):
        for name, value in statistic(torch.randint(units, (units,), generator=generator)).items():
            if not math.isnan(value):
                drawn[name].append(value)
    estimates = {}
    for name, value in values.items():
        low = high = math.nan
        if drawn[name]:
            quantiles = torch.tensor([0.025, 0.975], dtype=torch.float64)
            some = torch.tensor(drawn[name], dtype=torch.float64)
            low, high = some.quantile(quantiles).tolist()
        estimates[name] = Estimate(value, low, high)
    return estimates


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same problems.

    Attributes:
        wins: Problems the first gets right and the second wrong.
        losses: The other way round.
        ties: The rest.
        p_value: Of the exact McNemar test: two-sided binomial of the wins among wins and losses.
        difference: Of the accuracies, with a bootstrap interval over problems.
    """

    wins: int
    losses: int
    ties: int
    p_value: float
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "difference": self.difference.to_dict()}


def compare(first: Sequence[bool], second: Sequence[bool], *, seed: int = 0) -> Comparison:
    """Compares two policies problem by problem.

    Raises:
        ValueError: if they do not have the same number of problems.
    """
    if len(first) != len(second):
        raise ValueError(f"compare: second must have {len(first)} results, got {len(second)}")
    wins = sum(a and not b for a, b in zip(first, second, strict=True))
    losses = sum(b and not a for a, b in zip(first, second, strict=True))
    gaps = torch.tensor([a - b for a, b in zip(first, second, strict=True)], dtype=torch.float64)
    difference = Estimate(math.nan, math.nan, math.nan)
    if len(first):
        difference = bootstrap(
            len(first), lambda rows: {"difference": float(gaps[rows].mean())}, seed=seed
        )["difference"]
    ties = len(first) - wins - losses
    return Comparison(wins, losses, ties, mcnemar(wins, losses), difference)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact test that wins and losses are equally likely."""
    n = wins + losses
    ways: int = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    tail: float = ways / 2**n
    return min(1.0, 2 * tail)
