"""The losses against their formulas, computed by hand, and their properties."""

import math

import pytest
import torch

from s2t_ext.distillation import losses
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.quality.held_out import OWN_RANKING, HeldOut
from s2t_ext.distillation.quality.ranks import auc, ranks, spearman

TOTALS = torch.tensor([[0.9, 0.5, 0.2], [0.1, 0.4, 7.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True], [True, True, False]])
TEACHER = torch.tensor([[0.2, 0.6, 0.0], [0.3, 0.1, 0.0]], dtype=torch.float64)


def test_top1_is_the_cross_entropy_of_the_favourite():
    found = losses.top1_cross_entropy(TOTALS, MASK, TEACHER, temperature=0.5)
    first = -math.log(math.exp(1.0) / (math.exp(1.8) + math.exp(1.0) + math.exp(0.4)))
    second = -math.log(math.exp(0.2) / (math.exp(0.2) + math.exp(0.8)))
    torch.testing.assert_close(found, torch.tensor([first, second], dtype=torch.float64))


def test_hinge_is_against_the_hardest_negative():
    found = losses.hinge(TOTALS, MASK, TEACHER, margin=1.0)
    torch.testing.assert_close(found, torch.tensor([1.4, 1.3], dtype=torch.float64))
    found = losses.hinge(TOTALS, MASK, TEACHER, margin=-0.35)
    torch.testing.assert_close(found, torch.tensor([0.05, 0.0], dtype=torch.float64))


def test_kl_is_from_the_teacher_renormalised():
    found = losses.kl_to_teacher(TOTALS, MASK, TEACHER, temperature=1.0)
    q = TOTALS[0].softmax(0)
    first = 0.25 * math.log(0.25 / q[0]) + 0.75 * math.log(0.75 / q[1])
    q = TOTALS[1, :2].softmax(0)
    second = 0.75 * math.log(0.75 / q[0]) + 0.25 * math.log(0.25 / q[1])
    torch.testing.assert_close(found, torch.tensor([first, second], dtype=torch.float64))
    assert losses.kl_to_teacher(TEACHER.log(), MASK, TEACHER, 1.0)[1] == pytest.approx(0, abs=1e-12)


def test_pairwise_weighs_pairs_by_the_teachers_preference():
    found = losses.pairwise_margin(TOTALS, MASK, TEACHER, margin=0.5)
    # pairs (better, worse): (1, 0) by 0.5, (1, 2) by 0.75, (0, 2) by 0.25
    first = (0.5 * (0.5 + 0.4) + 0.75 * (0.5 - 0.3) + 0.25 * 0.0) / 1.5
    torch.testing.assert_close(found, torch.tensor([first, 0.8], dtype=torch.float64))


def test_a_teacher_without_an_opinion_counts_as_uniform():
    p = losses.normalised(MASK, torch.zeros_like(TEACHER))
    expected = torch.tensor([[1 / 3] * 3, [0.5, 0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(p, expected)


def test_teacher_margin_averages_one():
    weights = losses.teacher_margin(MASK, TEACHER)
    torch.testing.assert_close(weights, torch.tensor([1.0, 1.0], dtype=torch.float64))
    clearer = torch.tensor([[0.0, 0.6, 0.0], [0.3, 0.2, 0.0]])
    weights = losses.teacher_margin(MASK, clearer)
    assert weights[0] > 4.9 * weights[1] and weights.mean() == pytest.approx(1)


@pytest.mark.parametrize("kind", losses.LOSSES)
def test_gradients(kind):
    config = LossConfig(kind, temperature=0.7, teacher_margin_weighting=True)
    totals = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    teacher = torch.rand(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: losses.group_loss(t, mask, teacher, config), totals)
    (gradient,) = torch.autograd.grad(losses.group_loss(totals, mask, teacher, config), totals)
    assert gradient.isfinite().all() and not gradient[~mask].any()


def test_descending_a_loss_makes_the_teachers_favourite_win():
    for kind in losses.LOSSES:
        totals = TOTALS.clone().requires_grad_()
        optimizer = torch.optim.SGD([totals], lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            losses.group_loss(totals, MASK, TEACHER, LossConfig(kind)).backward()
            optimizer.step()
        choice = totals.detach().masked_fill(~MASK, -9.0).argmax(1)
        assert choice.tolist() == [1, 0], kind


def test_base_kl_leaves_reserved_ids_out():
    base, adapted = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    reserved = torch.tensor([2, 7])
    kept = [0, 1, 3, 4, 5, 6, 8]
    p, q = base[:, kept].softmax(1), adapted[:, kept].softmax(1)
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close(losses.base_kl(base, adapted, reserved), expected)
    assert losses.base_kl(base, base, None) == pytest.approx(0, abs=1e-12)
    adapted[:, reserved] += 100.0
    torch.testing.assert_close(losses.base_kl(base, adapted, reserved), expected)


def reference_teacher_kl(p, logits, count, reserved):
    """Of the definition: both distributions without the reserved ids, everything beyond the
    teacher's `count` likeliest tokens summed into one bucket."""
    total = 0.0
    for row, q in zip(p, logits, strict=True):
        kept = [i for i in range(len(row)) if i not in reserved]
        q = {i: float(v) for i, v in zip(kept, q[kept].softmax(0), strict=True)}
        best = row.topk(count).indices.tolist()
        listed = [i for i in best if i not in reserved]
        rest = sum(float(row[i]) for i in range(len(row)) if i not in best)
        mass = sum(float(row[i]) for i in listed) + rest
        for i in listed:
            total += float(row[i]) / mass * math.log(float(row[i]) / mass / q[i])
        if rest > 0:
            others = 1 - sum(q[i] for i in listed)
            total += rest / mass * math.log(rest / mass / others)
    return total


@pytest.mark.parametrize("reserved", [(), (2, 7)])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_teacher_kl_takes_all_other_tokens_as_one(count, reserved):
    torch.manual_seed(count)
    logits = (2 * torch.randn(5, 9, dtype=torch.float64)).requires_grad_()
    p = (2 * torch.randn(5, 9, dtype=torch.float64)).softmax(1)
    best = p.topk(count, dim=1)
    rest = (1 - best.values.sum(1, keepdim=True)).clamp(min=0) * (count < 9)
    logprobs = torch.cat([best.values, rest], dim=1).log()
    ids = torch.tensor(reserved, dtype=torch.int64)
    found = losses.teacher_kl(logits, best.indices, logprobs, ids)
    expected = reference_teacher_kl(p, logits.detach(), count, reserved)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(
        lambda x: losses.teacher_kl(x, best.indices, logprobs, ids), logits
    )
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.isfinite().all() and not gradient[:, list(reserved)].any()
    if count == 9 and not reserved:  # then nothing is lost
        torch.testing.assert_close(found, losses.base_kl(p.log(), logits, None))


def test_teacher_kl_of_places_without_a_token():
    logits = torch.randn(3, 9, dtype=torch.float64)
    ids = torch.tensor([[4, 1, 4], [0, 3, 0], [8, 2, 8]])
    logprobs = torch.tensor([[0.5, 0.2, 0.0, 0.3]] * 3, dtype=torch.float64).log()
    expected = losses.teacher_kl(logits, ids[:, :2], logprobs[:, [0, 1, 3]])
    torch.testing.assert_close(losses.teacher_kl(logits, ids, logprobs), expected)


def test_response_nll_leaves_reserved_ids_out():
    logits = torch.randn(4, 9, dtype=torch.float64)
    response = torch.tensor([0, 1, 3, 8])
    p = logits[:, [0, 1, 3, 4, 5, 6, 8]].softmax(1)
    expected = -sum(math.log(p[row, column]) for row, column in enumerate((0, 1, 2, 6)))
    found = losses.response_nll(logits, response, torch.tensor([2, 7]))
    assert float(found) == pytest.approx(expected)


def test_trigger_loss_balances_the_classes():
    logits = torch.zeros(10, dtype=torch.float64)
    labels = torch.tensor([True] + [False] * 9)
    assert losses.trigger_loss(logits, labels) == pytest.approx(18 * math.log(2))
    assert losses.trigger_loss(logits, ~labels) == pytest.approx(10 * math.log(2))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kind="mse"), "kind must be one of top1, kl, pairwise, got mse"),
        (dict(temperature=0.0), "temperature must be above 0, got 0.0"),
        (dict(kl_weight=-1.0), "kl_weight must be at least 0, got -1.0"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**options)


def test_auc_and_ranks():
    values = torch.tensor([0.1, 0.4, 0.35, 0.8])
    assert auc(values, torch.tensor([False, False, True, True])) == 0.75
    assert auc(torch.zeros(4), torch.tensor([False, True, True, False])) == 0.5
    assert math.isnan(auc(values, torch.zeros(4, dtype=torch.bool)))
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman():
    a = torch.tensor([[1.0, 2.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[1.0, 2.0, 2.5, 9.0], [1.0, 2.0, 3.0, 4.0]])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    assert spearman(a, b, mask) == pytest.approx(1.0)  # the constant row does not count
    assert spearman(-a, b, mask) == pytest.approx(-1.0)


def held_out(scores, teacher):
    logprobs = torch.log_softmax(torch.tensor([[4.0, 2.0, 1.0]]).repeat(len(scores), 1), 1)
    mask = torch.ones(scores.shape, dtype=torch.bool)
    steps = torch.linspace(-1, 1, 20)
    return HeldOut(scores, logprobs, mask, teacher, -steps, steps, steps)


def test_quality_and_the_prior_weight_never_below_the_students_own_ranking():
    torch.manual_seed(0)
    teacher = torch.tensor([[0.9, 0.05, 0.05]] * 7 + [[0.1, 0.8, 0.1]] * 3)
    useless = held_out(torch.rand(10, 3), teacher)
    weight = useless.best_prior_weight(0.01)
    quality = useless.quality(weight, trigger_threshold=0.5)
    assert quality.student_agreement == 0.7 and quality.agreement >= 0.7
    assert quality.entropy_auc == 1.0 and quality.trigger_auc == 0.0
    assert (quality.entropy_recall, quality.trigger_recall) == (1.0, 0.0)

    perfect = held_out(teacher.clone(), teacher)
    assert perfect.best_prior_weight(0.0) == 0.0
    assert perfect.quality(0.0, 0.5).agreement == 1.0
    assert perfect.quality(0.0, 0.5).margin == pytest.approx((7 * 0.85 + 3 * 0.7) / 10)
    assert perfect.quality(OWN_RANKING, 0.5).agreement == 0.7

    def turned(measured, weight=0.0):
        quality = measured.quality(weight, 0.5)
        return quality.gained, quality.lost

    assert turned(perfect) == (3, 0) and turned(perfect, OWN_RANKING) == (0, 0)
    assert turned(held_out(teacher.flip(1), teacher)) == (3, 7)
