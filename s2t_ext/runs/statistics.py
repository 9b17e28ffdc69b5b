"""Intervals and paired tests for answers that are right or wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2t_ext.runs.checks import require

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
        clusters: Groups of problems that belong together (templates); a problem without a group is
            one of its own.
        cluster_p_value: Of the sign-flip test over the clusters: problems of one template are won
            and lost together, which McNemar's test takes for independent evidence.
        cluster_difference: Of the accuracies, with a bootstrap interval over clusters.
    """

    wins: int
    losses: int
    ties: int
    p_value: float
    difference: Estimate
    clusters: int
    cluster_p_value: float
    cluster_difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        differences = {
            name: getattr(self, name).to_dict() for name in ("difference", "cluster_difference")
        }
        return {**asdict(self), **differences}


def compare(
    first: Sequence[bool],
    second: Sequence[bool],
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Compares two policies problem by problem.

    Args:
        first: Whether the first policy is right.
        second: Whether the second one is, on the same problems.
        groups: The template of each problem, "" for one that stands alone; None: all do.
        seed: Of the bootstrap.

    Raises:
        ValueError: if the numbers of problems differ.
    """
    for name, values in (("second", second), ("groups", groups)):
        length = len(first) if values is None else len(values)
        require(length == len(first), "compare", name, f"have {len(first)} results", length)
    wins = sum(a and not b for a, b in zip(first, second, strict=True))
    losses = sum(b and not a for a, b in zip(first, second, strict=True))
    gaps = torch.tensor([a - b for a, b in zip(first, second, strict=True)], dtype=torch.float64)
    difference = Estimate(math.nan, math.nan, math.nan)
    if len(first):
        difference = bootstrap(
            len(first), lambda rows: {"difference": float(gaps[rows].mean())}, seed=seed
        )["difference"]
    ties = len(first) - wins - losses
    sums = cluster_sums([a - b for a, b in zip(first, second, strict=True)], groups)
    return Comparison(
        wins,
        losses,
        ties,
        mcnemar(wins, losses),
        difference,
        len(sums),
        sign_flip([total for total, _ in sums]),
        cluster_mean(sums, seed=seed),
    )


def cluster_sums(values: Sequence[int], groups: Sequence[str] | None) -> list[tuple[int, int]]:
    """(sum of the values, number of them) of every cluster; a value of group "" is one alone."""
    found: dict[Any, tuple[int, int]] = {}
    for index, value in enumerate(values):
        key = groups[index] if groups is not None and groups[index] else index
        total, count = found.get(key, (0, 0))
        found[key] = total + value, count + 1
    return list(found.values())


def sign_flip(sums: Sequence[int]) -> float:
    """Two-sided p-value of the exact sign-flip test: the share of all assignments of signs to the
    clusters' sums whose total is at least as far from 0 as the observed one (Fisher 1935).
    """
    observed = abs(sum(sums))
    ways = {0: 1}  # total -> number of assignments
    for value in sums:
        flipped: dict[int, int] = {}
        for total, count in ways.items():
            for signed in (value, -value):
                flipped[total + signed] = flipped.get(total + signed, 0) + count
        ways = flipped
    extreme = sum(count for total, count in ways.items() if abs(total) >= observed)
    share: float = extreme / 2 ** len(sums)
    return share


def cluster_mean(sums: Sequence[tuple[int, int]], *, seed: int = 0) -> Estimate:
    """Mean of the values with a bootstrap interval over clusters.

    Args:
        sums: Of `cluster_sums`.
        seed: Of the bootstrap.
    """
    if not sums:
        return Estimate(math.nan, math.nan, math.nan)
    totals, counts = torch.tensor(sums, dtype=torch.float64).T

    def mean(clusters: torch.Tensor) -> dict[str, float]:
        return {"mean": float(totals[clusters].sum() / counts[clusters].sum())}

    return bootstrap(len(sums), mean, seed=seed)["mean"]


def mcnemar_power(problems: int, won: float, lost: float, level: float = 0.05) -> float:
    """Probability that the exact McNemar test rejects at `level`.

    Args:
        problems: Independent ones.
        won: Share of them that only the better policy solves.
        lost: Share that only the other one solves.
        level: Of the two-sided test.
    """
    power, discordant = 0.0, won + lost
    # Further from its mean the number of discordant problems is not found.
    mean, spread = problems * discordant, 8 * math.sqrt(problems * discordant) + 8
    for n in range(max(1, int(mean - spread)), min(problems, int(mean + spread)) + 1):
        # The most losses with which n discordant problems still reject.
        most, tail = -1, 0
        while most + 1 < n and 2 * (tail + math.comb(n, most + 1)) <= level * 2**n:
            most += 1
            tail += math.comb(n, most)
        share = lost / discordant
        rejects = sum(_binomial(n, i, share) + _binomial(n, i, 1 - share) for i in range(most + 1))
        power += _binomial(problems, n, discordant) * rejects
    return power


def _binomial(n: int, k: int, p: float) -> float:
    """Probability of k successes in n trials."""
    if p in (0.0, 1.0):
        return float(k == n * p)
    logs = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logs + k * math.log(p) + (n - k) * math.log1p(-p))


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of the exact test that wins and losses are equally likely."""
    n = wins + losses
    ways: int = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    tail: float = ways / 2**n
    return min(1.0, 2 * tail)
