"""Rank statistics."""

from __future__ import annotations

import torch


def auc(values: torch.Tensor, labels: torch.Tensor) -> float:
    """Area under the ROC curve: P(a positive's value > a negative's), ties counted half; NaN if one
    class is missing.
    """
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(ranks(values.double())[labels].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 1, equal values sharing their mean rank, [N]."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last: torch.Tensor = counts.cumsum(0).double()
    shared: torch.Tensor = (last - (counts.double() - 1) / 2)[inverse]
    return shared


def spearman(totals: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean over the groups of the rank correlation; groups where either is constant do not
    count.
    """
    found = []
    for row in range(totals.shape[0]):
        a, b = totals[row][mask[row]].double(), teacher[row][mask[row]].double()
        x, y = ranks(a), ranks(b)
        x, y = x - x.mean(), y - y.mean()
        size = x.norm() * y.norm()
        if size > 0:
            found.append(float(x @ y / size))
    return sum(found) / len(found) if found else float("nan")
