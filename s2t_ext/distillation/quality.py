"""How good a selector is on held-out groups, without decoding anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from s2t_ext.distillation.losses import favourite


@dataclass(frozen=True)
class Quality:
    """Measured on held-out trajectories, among the first k candidates of each group.

    Attributes:
        groups: Number of groups behind it.
        agreement: Share of groups whose best total is the teacher's favourite.
        student_agreement: The same of the student's own favourite: the bar to clear.
        score_agreement: The same of the score without its prior term: the paper's selector.
        spearman: Mean rank correlation of total and teacher probability.
        margin: Mean total of the teacher's favourite minus the best other.
        teacher_mass: Mean teacher probability (renormalised on the candidates) of the choice.
        trigger_auc: Area under the ROC curve of finding the steps of high KL by the learned
            trigger.
        entropy_auc: The same by the entropy.
        trigger_recall: Share of those steps found when as many steps fire.
        entropy_recall: The same by the entropy.
        steps: Number of steps behind the last four.
        net_recall: (right - harmful overrides) / corrections, over all groups, with the override
            margin: what decoding can gain. The groups should be the steps the trigger fires at
            (`collect(steps="entropy")`).
        harm_rate: Share of the overrides that the teacher likes less than the student's first.
        teacher_gain: Mean over the groups of the teacher's log-probability of the choice minus that
            of the student's first, nats.
        overrides: Number of groups in which the selector takes another candidate.
        corrections: Number of groups in which the teacher would.
        gained: Groups in which only the selector agrees with the teacher.
        lost: Groups in which only the student's own favourite does; agreement - student_agreement =
            (gained - lost) / groups.
    """

    groups: int
    agreement: float
    student_agreement: float
    score_agreement: float
    spearman: float
    margin: float
    teacher_mass: float
    trigger_auc: float = float("nan")
    entropy_auc: float = float("nan")
    trigger_recall: float = float("nan")
    entropy_recall: float = float("nan")
    steps: int = 0
    net_recall: float = float("nan")
    harm_rate: float = float("nan")
    teacher_gain: float = float("nan")
    overrides: int = 0
    corrections: int = 0
    gained: int = 0
    lost: int = 0

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Overrides:
    """Counts over labelled steps; a selector may do nothing, mend or break at each.

    Attributes:
        corrections: Steps at which the teacher's favourite is not the student's first candidate:
            what there is to mend.
        overrides: Steps at which the selector takes another candidate than the first.
        right: Overrides that take the teacher's favourite.
        harmful: Overrides that the teacher likes less than the first candidate.
        teacher_gain: Mean over all steps of log p(choice) - log p(first) under the teacher, nats.
    """

    corrections: int
    overrides: int
    right: int
    harmful: int
    teacher_gain: float

    @property
    def net_recall(self) -> float:
        """(right - harmful) / corrections; NaN where there is nothing to mend."""
        return _ratio(self.right - self.harmful, self.corrections)

    @property
    def harm_rate(self) -> float:
        """Share of the overrides that are harmful; NaN without any."""
        return _ratio(self.harmful, self.overrides)


@dataclass
class HeldOut:
    """What quality is computed from: groups [G, K] (K = candidates at decoding) and steps [S].

    Attributes:
        scores: Without the prior term.
        logprobs: The student's.
        mask: Bool.
        teacher: Probabilities.
        trigger: Logits of the trigger head.
        entropy: The student's.
        kl: The truth.
    """

    scores: torch.Tensor
    logprobs: torch.Tensor
    mask: torch.Tensor
    teacher: torch.Tensor
    trigger: torch.Tensor
    entropy: torch.Tensor
    kl: torch.Tensor

    def totals(self, prior_weight: float) -> torch.Tensor:
        """Scores with the prior term."""
        return self.scores + prior_weight * self.logprobs.masked_fill(~self.mask, 0.0)

    def quality(
        self, prior_weight: float, trigger_threshold: float, override_margin: float = 0.0
    ) -> Quality:
        """Quality at a prior weight.

        Args:
            prior_weight: Of the candidate's own log-probability.
            trigger_threshold: Steps of higher kl are those that a trigger should find, nats.
            override_margin: Of the decoding; agreement is measured without it.
        """
        count = self.scores.shape[0]
        if not count:
            nan = float("nan")
            return Quality(0, nan, nan, nan, nan, nan, nan)
        totals = self.totals(prior_weight)
        best = favourite(self.mask, self.teacher)
        choice = favourite(self.mask, _above_zero(totals))
        others = self.mask.scatter(1, best[:, None], False)
        several = others.any(dim=1)
        gap = totals.gather(1, best[:, None]).squeeze(1)
        gap = gap - totals.masked_fill(~others, -1e30).max(dim=1).values
        p = self.teacher / self.teacher.mul(self.mask).sum(dim=1, keepdim=True).clamp(min=1e-30)
        worth = count_overrides(totals, self.mask, self.teacher, override_margin)
        score_choice = favourite(self.mask, _above_zero(self.scores))
        return Quality(
            groups=count,
            agreement=_mean(choice == best),
            student_agreement=_mean(best == 0),
            score_agreement=_mean(score_choice == best),
            spearman=spearman(totals, self.teacher, self.mask),
            margin=_mean(gap[several]),
            teacher_mass=_mean(p.gather(1, choice[:, None])),
            net_recall=worth.net_recall,
            harm_rate=worth.harm_rate,
            teacher_gain=worth.teacher_gain,
            overrides=worth.overrides,
            corrections=worth.corrections,
            gained=int(((choice == best) & (best != 0)).sum()),
            lost=int(((choice != best) & (best == 0)).sum()),
            **self._trigger_quality(trigger_threshold),
        )

    def _trigger_quality(self, threshold: float) -> dict[str, Any]:
        if not self.kl.numel():
            return {}
        labels = self.kl > threshold
        result: dict[str, float] = {"steps": self.kl.numel()}
        for name, values in (("trigger", self.trigger), ("entropy", self.entropy)):
            result[f"{name}_auc"] = auc(values, labels)
            fired = values.argsort(descending=True, stable=True)[: int(labels.sum())]
            result[f"{name}_recall"] = _mean(labels[fired])
        return result

    def best_prior_weight(self, trained: float) -> float:
        """The prior weight of the best agreement, among multiples of the trained one, fixed ones, 0
        and "the student's own ranking"; the trained one unless another is better.

        The last makes sure that a selector is never worse on these groups than not selecting.
        """
        best = favourite(self.mask, self.teacher)
        weights = [trained, *(trained * 2.0**i for i in (-2, -1, 1, 2) if trained > 0)]
        weights += [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 0.0, OWN_RANKING]

        def agreement(weight: float) -> float:
            return _mean(favourite(self.mask, _above_zero(self.totals(weight))) == best)

        return max(weights, key=lambda w: (agreement(w), w == trained, -weights.index(w)))


#: A prior weight at which scores (in [0, 1]) hardly ever overturn the student's own ranking.
OWN_RANKING = 1000.0


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


def _above_zero(values: torch.Tensor) -> torch.Tensor:
    """Shifted so that `favourite`, which reads probabilities, orders them the same."""
    return values - values.min(dim=1, keepdim=True).values


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean()) if values.numel() else float("nan")


def count_overrides(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, margin: float = 0.0
) -> Overrides:
    """Counts the overrides of a selector that decodes greedily with an override margin.

    Args:
        totals: [G, K], scores with the prior term.
        mask: Bool [G, K], which slots hold a candidate; the first one always does.
        teacher: [G, K], the teacher's probabilities.
        margin: See `S2TConfig.override_margin`.
    """
    valid = totals.masked_fill(~mask, float("-inf"))
    best, choice = favourite(mask, teacher), valid.argmax(dim=1)
    gap = valid.gather(1, choice[:, None]).squeeze(1) - valid[:, 0]
    choice = torch.where(gap > margin, choice, 0)
    # A probability that was rounded to 0 costs much, not infinitely much.
    logs = teacher.double().clamp(min=1e-8).log()
    gains = logs.gather(1, choice[:, None]).squeeze(1) - logs[:, 0]
    overridden = choice != 0
    return Overrides(
        corrections=int((best != 0).sum()),
        overrides=int(overridden.sum()),
        right=int((overridden & (choice == best)).sum()),
        harmful=int((gains < 0).sum()),
        teacher_gain=float(gains.mean()) if len(gains) else float("nan"),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
