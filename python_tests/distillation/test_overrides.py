"""What overrides are worth, by hand."""

import math

import pytest
import torch

from s2t_ext.distillation.quality.overrides import choose_margin, count_overrides, override_choices

MASK = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]).bool()
TEACHER = torch.tensor([[0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.4, 0.0], [0.5, 0.2, 0.3]])
#: Right by 0.3, harmful by 0.1, the first kept, harmful by 0.5 (slot 2 of the third is empty).
TOTALS = torch.tensor([[0.5, 0.8, 0.0], [0.5, 0.6, 0.0], [0.7, 0.2, 9.0], [0.2, 0.0, 0.7]])


@pytest.mark.parametrize(
    "margin, overrides, right, harmful",
    [(0.0, 3, 1, 2), (0.2, 2, 1, 1), (0.4, 1, 0, 1), (0.6, 0, 0, 0)],
)
def test_counts(margin, overrides, right, harmful):
    found = count_overrides(TOTALS, MASK, TEACHER, margin)
    assert (found.corrections, found.overrides) == (2, overrides)
    assert (found.right, found.harmful) == (right, harmful)
    assert found.net_recall == (right - harmful) / 2
    gains = [math.log(8) * (right > 0)]
    gains += [math.log(0.5)] * (margin < 0.1) + [math.log(0.6)] * (margin < 0.5)
    assert found.teacher_gain == pytest.approx(sum(gains) / 4)
    if overrides:
        assert found.harm_rate == harmful / overrides
    else:
        assert math.isnan(found.harm_rate)


def test_nothing_to_mend():
    found = count_overrides(torch.zeros(2, 3), torch.ones(2, 3).bool(), torch.eye(3)[[0, 0]])
    assert (found.corrections, found.overrides, found.teacher_gain) == (0, 0, 0.0)
    assert math.isnan(found.net_recall)


def by_hand(totals, mask, teacher, limit):
    """The best net count over all margins between two gaps, each tried out."""
    lead = totals.masked_fill(~mask, -math.inf).max(1).values - totals[:, 0]
    gaps = sorted({0.0, *lead.tolist()})
    tried = [0.0, *((a + b) / 2 for a, b in zip(gaps, gaps[1:], strict=False)), gaps[-1]]
    found = [count_overrides(totals, mask, teacher, margin) for margin in tried]
    allowed = [f for f in found if f.overrides == 0 or f.harmful <= limit * f.overrides]
    return max(f.right - f.harmful for f in allowed)


@pytest.mark.parametrize("limit", [0.0, 0.2, 0.5, 1.0])
def test_the_margin_of_the_highest_net_recall_within_the_limit(limit):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        teacher = torch.rand(40, 4, generator=generator).softmax(1)
        totals = teacher + 0.1 * torch.rand(40, 4, generator=generator)
        totals[:, 0] += 0.1
        totals = (totals * 20).round() / 20  # many equal gaps
        mask = torch.rand(40, 4, generator=generator) < 0.8
        mask[:, 0] = True
        margin = choose_margin(totals, mask, teacher, limit)
        found = count_overrides(totals, mask, teacher, margin)
        assert found.right - found.harmful == max(0, by_hand(totals, mask, teacher, limit))
        assert found.overrides == 0 or found.harmful <= limit * found.overrides


def test_margins_by_hand():
    """Gaps 0.3 (right), 0.1 (harmful), 0.5 (harmful): no margin is worth it."""
    assert choose_margin(TOTALS, MASK, TEACHER, 0.2) == pytest.approx(0.5)
    assert int((override_choices(TOTALS, MASK, 0.5) != 0).sum()) == 0
    # Without the last group: between the harmful one and the right one.
    rows = (TOTALS[:3], MASK[:3], TEACHER[:3])
    assert choose_margin(*rows, 0.2) == pytest.approx(0.2)
    assert choose_margin(TOTALS[:1], MASK[:1], TEACHER[:1], 0.0) == 0.0
    assert choose_margin(TOTALS[:0], MASK[:0], TEACHER[:0], 0.2) == 0.0
    with pytest.raises(ValueError, match=r"harm_limit must be in \[0, 1\], got 1.5"):
        choose_margin(TOTALS, MASK, TEACHER, 1.5)
