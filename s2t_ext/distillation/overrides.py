"""What a selector's overrides are worth: decisions against the student's first candidate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2t_ext.distillation.losses import favourite


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
