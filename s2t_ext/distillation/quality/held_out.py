"""What held-out groups get from a selector, and how good that is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from s2t_ext.distillation.losses import favourite
from s2t_ext.distillation.quality.overrides import choose_margin, count_overrides, override_choices
from s2t_ext.distillation.quality.ranks import auc, spearman
from s2t_ext.runs.numbers import without_nan

#: Entropy bands of the report: shares of all steps, from the most uncertain one on.
BANDS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


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
        override_margin: What the figures of overrides are measured with.
        groups_at_trigger: Groups behind them: those at which the entropy trigger fires.
        net_recall: (right - harmful overrides) / corrections: what decoding can gain.
        harm_rate: Share of the overrides that the teacher likes less than the student's first.
        teacher_gain: Mean over these groups of the teacher's log-probability of the choice minus
            that of the student's first, nats.
        overrides: Number of them in which the selector takes another candidate.
        corrections: Number of them in which the teacher would.
        ending_overrides: Number of overrides by which the answer ends where the student would have
            gone on.
        ngram_agreement: Agreement of a model of n-grams trained on the same groups, which knows no
            hidden state: a bar that a selector should pass.
        ngram_net_recall: Net recall of that model, with a margin of its own.
        bands: The figures of overrides by entropy; see `HeldOut.bands`.
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
    override_margin: float = 0.0
    groups_at_trigger: int = 0
    net_recall: float = float("nan")
    harm_rate: float = float("nan")
    teacher_gain: float = float("nan")
    overrides: int = 0
    corrections: int = 0
    ending_overrides: int = 0
    gained: int = 0
    lost: int = 0
    ngram_agreement: float = float("nan")
    ngram_net_recall: float = float("nan")
    bands: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN is None."""
        return {name: without_nan(value) for name, value in asdict(self).items()}


@dataclass
class HeldOut:
    """What quality is computed from: G groups of K candidates (those of decoding) and S steps.

    Attributes:
        scores: [G, K], without the prior term.
        logprobs: [G, K], the student's.
        mask: Bool [G, K].
        teacher: [G, K], probabilities.
        trigger: [S], logits of the trigger head.
        entropy: [S], the student's, nats.
        kl: [S], the truth, nats.
        group_entropy: [G], the student's, nats; NaN or None where it is unknown.
        ids: int64 [G, K], the candidates' ids, or None.
    """

    scores: torch.Tensor
    logprobs: torch.Tensor
    mask: torch.Tensor
    teacher: torch.Tensor
    trigger: torch.Tensor
    entropy: torch.Tensor
    kl: torch.Tensor
    group_entropy: torch.Tensor | None = None
    ids: torch.Tensor | None = None

    def at_trigger(self, entropy_threshold: float | None) -> HeldOut:
        """The groups at which an entropy trigger fires; all of them where that is not known.

        Args:
            entropy_threshold: Of the trigger, nats, or None.
        """
        known = self.group_entropy
        if entropy_threshold is None or known is None or bool(known.isnan().any()):
            return self
        return self._groups(known > entropy_threshold)

    def _groups(self, chosen: torch.Tensor) -> HeldOut:
        names = ("scores", "logprobs", "mask", "teacher", "group_entropy", "ids")
        values = {name: getattr(self, name) for name in names}
        return replace(self, **{n: v[chosen] for n, v in values.items() if v is not None})

    def best_margin(self, prior_weight: float, harm_limit: float) -> float:
        """`choose_margin` on these groups, with the prior term."""
        return choose_margin(self.totals(prior_weight), self.mask, self.teacher, harm_limit)

    def totals(self, prior_weight: float) -> torch.Tensor:
        """Scores with the prior term."""
        return self.scores + prior_weight * self.logprobs.masked_fill(~self.mask, 0.0)

    def quality(
        self,
        prior_weight: float,
        trigger_threshold: float,
        override_margin: float = 0.0,
        *,
        entropy_threshold: float | None = None,
        end_ids: tuple[int, ...] = (),
    ) -> Quality:
        """Quality at a prior weight.

        Args:
            prior_weight: Of the candidate's own log-probability.
            trigger_threshold: Steps of higher kl are those that a trigger should find, nats.
            override_margin: Of the decoding; agreement is measured without it.
            entropy_threshold: Of the trigger of the decoding, nats: overrides are counted where it
                fires. None counts them in all groups.
            end_ids: Tokens that end an answer.
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
        score_choice = favourite(self.mask, _above_zero(self.scores))
        decoded = self.at_trigger(entropy_threshold)
        return Quality(
            groups=count,
            agreement=_mean(choice == best),
            student_agreement=_mean(best == 0),
            score_agreement=_mean(score_choice == best),
            spearman=spearman(totals, self.teacher, self.mask),
            margin=_mean(gap[several]),
            teacher_mass=_mean(p.gather(1, choice[:, None])),
            override_margin=override_margin,
            groups_at_trigger=decoded.scores.shape[0],
            ending_overrides=decoded.ending_overrides(prior_weight, override_margin, end_ids),
            gained=int(((choice == best) & (best != 0)).sum()),
            lost=int(((choice != best) & (best == 0)).sum()),
            bands=tuple(self.bands(prior_weight, override_margin)),
            **decoded.override_figures(prior_weight, override_margin),
            **self._trigger_quality(trigger_threshold),
        )

    def override_figures(self, prior_weight: float, margin: float) -> dict[str, Any]:
        """corrections, overrides, net_recall, harm_rate and teacher_gain of all these groups."""
        found = count_overrides(self.totals(prior_weight), self.mask, self.teacher, margin)
        names = ("corrections", "overrides", "net_recall", "harm_rate", "teacher_gain")
        return {name: getattr(found, name) for name in names}

    def ending_overrides(self, prior_weight: float, margin: float, end_ids: tuple[int, ...]) -> int:
        """Overrides that take a token of `end_ids` where the first candidate is none."""
        if self.ids is None or not end_ids:
            return 0
        choice = override_choices(self.totals(prior_weight), self.mask, margin)
        ends = torch.isin(self.ids, torch.tensor(end_ids))
        taken = ends.gather(1, choice[:, None]).squeeze(1)
        return int((taken & ~ends[:, 0]).sum())

    def bands(self, prior_weight: float, margin: float) -> list[dict[str, Any]]:
        """The figures of overrides by entropy, of the most uncertain steps first.

        Returns:
            Per band: from_share and to_share of all held-out steps, above_entropy (its lower
            bound, nats), steps, groups (labelled ones among them), and what `override_figures`
            gives. Empty where entropies are unknown.
        """
        known = self.group_entropy
        if known is None or bool(known.isnan().any()) or bool(self.entropy.isnan().any()):
            return []
        if not self.entropy.numel():
            return []
        ranked = self.entropy.double().sort(descending=True).values
        found, upper = [], math.inf
        for low, high in zip(BANDS[:-1], BANDS[1:], strict=True):
            place = math.ceil(high * len(ranked))
            lower = -math.inf if place >= len(ranked) else float(ranked[place])
            steps = int(((ranked > lower) & (ranked <= upper)).sum())
            part = self._groups((known > lower) & (known <= upper))
            found.append(
                {
                    **dict(from_share=low, to_share=high, above_entropy=lower, steps=steps),
                    "groups": part.scores.shape[0],
                    **part.override_figures(prior_weight, margin),
                }
            )
            upper = lower
        return found

    def trigger_is_worth_it(self, threshold: float) -> bool:
        """Whether the learned trigger finds as many of the steps of high kl as the entropy does at
        the same rate.
        """
        found = self._trigger_quality(threshold)
        return not found or not found["trigger_recall"] < found["entropy_recall"]

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
        weights = _tried_weights(trained)

        def agreement(weight: float) -> float:
            return _mean(favourite(self.mask, _above_zero(self.totals(weight))) == best)

        return max(weights, key=lambda w: (agreement(w), w == trained, -weights.index(w)))

    def prior_weight_for_margin(self, prior_weight: float, harm_limit: float) -> float:
        """The prior weight of the highest net recall, each with its own `best_margin`; the given
        one unless another is better.

        A selector that agrees with the teacher less often than the student's own ranking does can
        still mend more than it breaks where it is sure.
        """

        def worth(weight: float) -> float:
            margin = self.best_margin(weight, harm_limit)
            found = count_overrides(self.totals(weight), self.mask, self.teacher, margin)
            return found.right - found.harmful

        weights = _tried_weights(prior_weight)
        return max(weights, key=lambda w: (worth(w), w == prior_weight, -weights.index(w)))


def _tried_weights(first: float) -> list[float]:
    weights = [first, *(first * 2.0**i for i in (-2, -1, 1, 2) if first > 0)]
    return weights + [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 0.0, OWN_RANKING]


#: A prior weight at which scores (in [0, 1]) hardly ever overturn the student's own ranking.
OWN_RANKING = 1000.0


def _above_zero(values: torch.Tensor) -> torch.Tensor:
    """Shifted so that `favourite`, which reads probabilities, orders them the same."""
    return values - values.min(dim=1, keepdim=True).values


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean()) if values.numel() else float("nan")
