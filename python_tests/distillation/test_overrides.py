"""What overrides are worth, by hand."""

import math

import pytest
import torch

from s2t_ext.distillation.quality import count_overrides

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
