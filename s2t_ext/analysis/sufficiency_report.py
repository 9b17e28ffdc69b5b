"""What a sufficiency run has measured: shares with intervals, and pictures of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s2t_ext.runs.files import read_json
from s2t_ext.runs.statistics import Estimate, bootstrap

#: The student's tokens that are looked at; divergence and entropy are taken over them.
SUPPORT = 64
KS = (1, 2, 4, 8, 16, 32)
SHARES = (0.01, 0.05, 0.10)

#: Rank of a token that is not in the student's support.
ABSENT = SUPPORT


@dataclass(frozen=True)
class Steps:
    """What was measured at the steps of one or more trajectories; all tensors are [steps].

    Attributes:
        problem: int64, index of the problem.
        kl: fp64, KL(student || teacher) on the support, nats.
        entropy: fp64, of the student's support, nats.
        rank: int64, of the teacher's token among the student's; `ABSENT` beyond the support.
    """

    problem: torch.Tensor
    kl: torch.Tensor
    entropy: torch.Tensor
    rank: torch.Tensor

    @classmethod
    def from_records(cls, records: Sequence[dict[str, Any]]) -> Steps:
        """Joins the lines of a run's results."""
        kl = [v for r in records for v in r["kl"]]
        entropy = [v for r in records for v in r["entropy"]]
        rank = [v for r in records for v in r["rank"]]
        problem = [i for i, r in enumerate(records) for _ in r["rank"]]
        return cls(
            torch.tensor(problem, dtype=torch.int64),
            torch.tensor(kl, dtype=torch.float64),
            torch.tensor(entropy, dtype=torch.float64),
            torch.tensor(rank, dtype=torch.int64),
        )


def sufficiency_report(
    records: Sequence[dict[str, Any]], *, samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The report of a run's records.

    Returns:
        counts: problems and steps. seconds: per phase. agreement: share of steps at which the
        teacher's token is the student's own. hit: for the steps of highest "kl" and "entropy", per
        share: number of steps, threshold, and "hit@K": share whose teacher token is among the
        student's K best. errors: for all steps and for each share of highest KL: share of steps at
        which the two disagree, and of those, per K, the share where the teacher's token is
        "missing" from the K best and where it is there but "wrongly_ranked". All shares come with
        95 % bootstrap intervals over problems.
    """
    steps = Steps.from_records(records)
    if not len(steps.rank):
        raise ValueError("measure_sufficiency: rollouts must hold at least one token, got none")
    of_problem = _rows_by_problem(steps.problem, len(records))

    def statistic(problems: torch.Tensor) -> dict[str, float]:
        rows = torch.cat([of_problem[i] for i in problems.tolist()])
        return sufficiency_statistics(steps.kl[rows], steps.entropy[rows], steps.rank[rows])

    estimates = bootstrap(len(records), statistic, samples=samples, seed=seed)
    seconds: dict[str, float] = {}
    for record in records:
        for name, value in record["seconds"].items():
            seconds[name] = seconds.get(name, 0.0) + value
    report: dict[str, Any] = {
        "counts": {"problems": len(records), "steps": len(steps.rank)},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    for path, estimate in estimates.items():
        _put(report, path.split("/"), estimate)
    for by in ("kl", "entropy"):
        for share in SHARES:
            entry, values = report["hit"][by][f"{share:g}"], getattr(steps, by)
            chosen = highest(values, share)
            entry["steps"] = len(chosen)
            entry["threshold"] = float(values[chosen].min())
    return report


def sufficiency_statistics(
    kl: torch.Tensor, entropy: torch.Tensor, rank: torch.Tensor
) -> dict[str, float]:
    """The report's shares, under "/"-separated paths, of steps [n]."""
    if not len(rank):
        return {}
    values = {"agreement": float((rank == 0).double().mean())}
    for by, statistic in (("kl", kl), ("entropy", entropy)):
        for share in SHARES:
            some = rank[highest(statistic, share)]
            for k in KS:
                values[f"hit/{by}/{share:g}/hit@{k}"] = float((some < k).double().mean())
            if by == "kl":
                values.update(_errors(f"errors/{share:g}", some))
    values.update(_errors("errors/all", rank))
    return values


def _errors(path: str, rank: torch.Tensor) -> dict[str, float]:
    wrong = rank[rank > 0]
    values = {f"{path}/disagreement": len(wrong) / len(rank)}
    for k in KS[1:]:
        missing = float((wrong >= k).double().mean()) if len(wrong) else math.nan
        values[f"{path}/missing@{k}"] = missing
        values[f"{path}/wrongly_ranked@{k}"] = 1.0 - missing
    return values


def highest(values: torch.Tensor, share: float) -> torch.Tensor:
    """Indices of the ceil(share * n) highest values; the earlier of equals."""
    count = math.ceil(share * len(values))
    return values.argsort(descending=True, stable=True)[:count]


def _rows_by_problem(problem: torch.Tensor, count: int) -> list[torch.Tensor]:
    sizes = torch.bincount(problem, minlength=count).tolist()
    return list(torch.arange(len(problem)).split(sizes))


def _put(report: dict[str, Any], path: list[str], estimate: Estimate) -> None:
    for name in path[:-1]:
        report = report.setdefault(name, {})
    report[path[-1]] = estimate.to_dict()


def load_report(folder: str | Path) -> dict[str, Any]:
    """A finished run's report."""
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"load_report: folder must hold report.json, got none in {folder}")
    return read_json(path, "load_report")


def plot_sufficiency(folder: str | Path) -> Path:
    """Draws Hit@K and the rank of the teacher's token against KL into `sufficiency.png`; returns
    the path.

    Raises:
        ImportError: without matplotlib (`pip install s2t_ext[plot]`).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = Path(folder)
    report = load_report(folder)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5))
    for by, style in (("kl", "-"), ("entropy", "--")):
        for index, share in enumerate(SHARES):
            entry = report["hit"][by][f"{share:g}"]
            rows = [entry[f"hit@{k}"] for k in KS]
            label = f"top {share:.0%} of {by} ({entry['steps']} steps)"
            left.plot(KS, [r["value"] for r in rows], style, c=f"C{index}", marker="o", label=label)
            if by == "kl":
                bounds = [r["low"] for r in rows], [r["high"] for r in rows]
                left.fill_between(KS, *bounds, color=f"C{index}", alpha=0.15)
    left.set(xscale="log", xlabel="K", ylabel="teacher's token among the student's K best")
    left.set_ylim(top=1.0)
    left.set_xticks(KS, [str(k) for k in KS])
    left.legend(fontsize=8)
    lines = (folder / "results" / "problems.jsonl").read_text().splitlines()
    _plot_ranks(right, Steps.from_records([json.loads(line) for line in lines]))
    figure.tight_layout()
    path = folder / "sufficiency.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _plot_ranks(axes: Any, steps: Steps) -> None:
    """Per twentieth of the steps by KL, how often the teacher's token has which rank."""
    order = steps.kl.argsort()
    groups = [g for g in steps.rank[order].tensor_split(20) if len(g)]
    bottom = torch.zeros(len(groups), dtype=torch.float64)
    bounds = [0, 1, 2, 4, 8, 16, 32, ABSENT]
    names = ["1", "2", "3-4", "5-8", "9-16", "17-32", f"33-{ABSENT}"]
    for low, high, name in zip(bounds, bounds[1:], names, strict=False):
        share = torch.tensor(
            [float(((g >= low) & (g < high)).double().mean()) for g in groups], dtype=torch.float64
        )
        axes.bar(range(len(groups)), share, bottom=bottom, label=name, width=0.95)
        bottom += share
    axes.bar(range(len(groups)), 1 - bottom, bottom=bottom, label=f"> {ABSENT}", width=0.95)
    axes.set(xlabel="steps by KL, lowest to highest twentieth", ylabel="share of steps")
    axes.set_xticks(range(0, len(groups), 4), [str(i + 1) for i in range(0, len(groups), 4)])
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # not over the bars
    axes.legend(title="rank of the teacher's token", fontsize=8, title_fontsize=8, **beside)
