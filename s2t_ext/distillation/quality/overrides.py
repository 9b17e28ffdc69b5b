"""What overriding the student's first candidate mends and breaks, and the margin that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2t_ext.distillation.losses import favourite
from s2t_ext.runs.checks import require


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
    choice = override_choices(totals, mask, margin)
    best = favourite(mask, teacher)
    gains = _teacher_gains(teacher, choice)
    overridden = choice != 0
    return Overrides(
        corrections=int((best != 0).sum()),
        overrides=int(overridden.sum()),
        right=int((overridden & (choice == best)).sum()),
        harmful=int((gains < 0).sum()),
        teacher_gain=float(gains.mean()) if len(gains) else float("nan"),
    )


def override_choices(totals: torch.Tensor, mask: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """int64 [G]: the slot that greedy decoding takes; arguments as of `count_overrides`."""
    choice, gap = _best_and_gap(totals, mask)
    return torch.where(gap > margin, choice, 0)


def choose_margin(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, harm_limit: float
) -> float:
    """The override margin of the highest net recall among those whose harm rate is within a limit.

    Every margin that changes a choice is looked at; of equally good ones the largest is taken, and
    if none is better than no override at all, one that lets none through.

    Args:
        totals: [G, K], scores with the prior term, of held-out groups at which the trigger fires.
        mask: Bool [G, K], which slots hold a candidate; the first one always does.
        teacher: [G, K], the teacher's probabilities.
        harm_limit: Highest share of the overrides that the teacher likes less than the first
            candidate, in [0, 1].

    Returns:
        A value for `S2TConfig.override_margin`.

    Raises:
        ValueError: for a limit outside its range.
    """
    require(0 <= harm_limit <= 1, "choose_margin", "harm_limit", "be in [0, 1]", harm_limit)
    choice, gap = _best_and_gap(totals, mask)
    order = gap.argsort(descending=True, stable=True)[: int((gap > 0).sum())]
    if not len(order):
        return 0.0
    choice_there, gap = torch.where(gap > 0, choice, 0), gap[order].double()
    right = (choice_there == favourite(mask, teacher))[order].cumsum(0)
    harmful = (_teacher_gains(teacher, choice_there) < 0)[order].cumsum(0)
    # The first n overrides, by gap, are those of a margin between the gaps of n and n + 1.
    below = torch.cat([gap[1:], torch.zeros(1, dtype=gap.dtype)])
    count = torch.arange(1, len(gap) + 1)
    allowed = (gap > below) & (harmful <= harm_limit * count)
    net = torch.where(allowed, right - harmful, 0)
    if int(net.max()) <= 0:
        return float(gap[0])
    n = int(net.argmax())  # the first of equals: the largest margin
    return float(gap[n] + below[n]) / 2 if n + 1 < len(gap) else 0.0


def _best_and_gap(totals: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(slot of the best total, its lead over the first candidate's), [G] each."""
    valid = totals.masked_fill(~mask, float("-inf"))
    choice = valid.argmax(dim=1)
    return choice, valid.gather(1, choice[:, None]).squeeze(1) - valid[:, 0]


def _teacher_gains(teacher: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """[G]: log p(choice) - log p(first) under the teacher."""
    # A probability that was rounded to 0 costs much, not infinitely much.
    logs = teacher.double().clamp(min=1e-8).log()
    return logs.gather(1, choice[:, None]).squeeze(1) - logs[:, 0]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
