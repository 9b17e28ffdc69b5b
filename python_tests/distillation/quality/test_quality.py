"""What is reported of a selector on held-out groups: overrides, by trigger, entropy and n-grams."""

import json
import math

import pytest
import torch

from s2t_ext.distillation.groups import Group, Trajectory
from s2t_ext.distillation.quality.held_out import OWN_RANKING, HeldOut
from s2t_ext.distillation.quality.ngrams import NgramModel, ngram_bar, ngram_keys
from s2t_ext.distillation.quality.overrides import choose_margin, count_overrides, override_choices

STEPS = 100


def held_out(entropy=None):
    """Ten groups at the ten most uncertain of a hundred steps; the selector takes slot 1 in all but
    the last, which is right in the first five, harmful in the next four.
    """
    teacher = torch.tensor([[0.2, 0.8]] * 5 + [[0.7, 0.3]] * 5)
    scores = torch.tensor([[0.0, 1.0]] * 5 + [[0.0, 0.5]] * 4 + [[0.5, 0.0]])
    steps = torch.arange(STEPS, 0, -1).float() / STEPS  # 1.00, 0.99, ... nats
    group_entropy = steps[:10] if entropy is None else entropy
    logprobs = torch.tensor([[0.6, 0.4]]).log().repeat(10, 1)
    mask = torch.ones(10, 2, dtype=torch.bool)
    ids = torch.tensor([[4, 5]] * 8 + [[5, 1], [1, 5]])
    return HeldOut(scores, logprobs, mask, teacher, -steps, steps, steps, group_entropy, ids)


def test_overrides_are_counted_where_the_trigger_fires():
    quality = held_out().quality(0.0, 0.5, entropy_threshold=0.945, end_ids=(1, 2))
    assert (quality.groups, quality.groups_at_trigger) == (10, 6)
    assert (quality.corrections, quality.overrides) == (5, 6)
    assert quality.net_recall == (5 - 1) / 5 and quality.harm_rate == 1 / 6
    assert quality.ending_overrides == 0
    everywhere = held_out().quality(0.0, 0.5, end_ids=(1, 2))
    assert everywhere.groups_at_trigger == 10 and everywhere.net_recall == (5 - 4) / 5
    assert everywhere.ending_overrides == 1  # the last group's first candidate is an end itself
    assert everywhere.agreement == quality.agreement == 0.6


def test_the_margin_is_that_of_the_groups_at_the_trigger():
    """Of all groups, the harmful ones are not worth it; where it fires, one of six is."""
    assert held_out().best_margin(0.0, 0.2) == pytest.approx(0.75)
    assert held_out().at_trigger(0.945).best_margin(0.0, 0.2) == pytest.approx(0.75)
    assert held_out().at_trigger(0.945).best_margin(0.0, 0.0) == pytest.approx(0.75)
    worse = held_out()
    worse.scores[5:9, 1] = 1.0  # as sure of the harmful ones
    assert worse.at_trigger(0.945).best_margin(0.0, 0.2) == 0.0
    assert worse.best_margin(0.0, 0.2) == 1.0  # 4 of 9 is too much: lets none through


def test_a_learned_trigger_must_find_as_much_as_the_entropy():
    steps = torch.arange(20.0)
    for trigger, worth in ((steps, True), (-steps, False)):
        data = held_out()
        data.trigger, data.entropy, data.kl = trigger, steps, steps
        assert data.trigger_is_worth_it(14.5) == worth


def test_the_prior_weight_is_chosen_with_the_margin():
    """By agreement alone the student's own ranking wins here, and nothing would be mended."""
    teacher = torch.tensor([[0.2, 0.8]] * 2 + [[0.7, 0.3]] * 8)
    scores = torch.tensor([[0.0, 1.0]] * 2 + [[0.0, 0.5]] * 5 + [[0.5, 0.0]] * 3)
    logprobs = torch.tensor([[0.6, 0.4]]).log().repeat(10, 1)
    none, mask = torch.zeros(0), torch.ones(10, 2, dtype=torch.bool)
    data = HeldOut(scores, logprobs, mask, teacher, none, none, none)
    weight = data.prior_weight_for_margin(OWN_RANKING, 0.2)
    quality = data.quality(weight, 0.5, data.best_margin(weight, 0.2))
    assert quality.net_recall == 1.0 and quality.harm_rate == 0.0
    useless = HeldOut(-scores, logprobs, mask, teacher, none, none, none)
    assert useless.prior_weight_for_margin(OWN_RANKING, 0.2) == OWN_RANKING


def test_bands_of_entropy():
    bands = held_out().quality(0.0, 0.5).bands
    assert [(b["steps"], b["groups"]) for b in bands] == [
        *[(5, 5), (5, 5), (10, 0), (10, 0), (20, 0), (50, 0)]
    ]
    assert [b["net_recall"] for b in bands[:1]] == [1.0] and math.isnan(bands[1]["net_recall"])
    assert bands[1]["harm_rate"] == 1.0 and bands[0]["above_entropy"] == pytest.approx(0.95)
    assert held_out(torch.full((10,), math.nan)).quality(0.0, 0.5).bands == ()


def test_what_is_written_is_json():
    written = json.dumps(held_out().quality(0.0, 0.5).to_dict(), allow_nan=False)
    assert json.loads(written)["bands"][1]["net_recall"] is None


def trajectories(count, seed):
    """Contexts of two tokens decide which of two candidates the teacher takes: an exclusive or, so
    that no shorter context tells.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        response = torch.randint(10, 12, (20,), generator=generator).tolist()
        groups = []
        for step in range(2, 20):
            second = response[step - 1] != response[step - 2]
            probs = (0.1, 0.9) if second else (0.9, 0.1)
            groups.append(Group(step, (7, 8), (-0.5, -0.9), probs, entropy=0.6))
        found.append(Trajectory(str(number), (3,), tuple(response), tuple(groups)))
    return found


def test_ngrams_learn_what_the_last_words_tell():
    training, others = trajectories(60, 0), trajectories(10, 1)
    bar = ngram_bar(training, others, 4, 0.5, 0.2)
    assert bar == {"ngram_agreement": 1.0, "ngram_net_recall": 1.0}
    assert torch.equal(*(NgramModel(training, 4).totals(others) for _ in range(2)))
    assert math.isnan(ngram_bar(training, others, 4, 0.7, 0.2)["ngram_net_recall"])  # none fires


def test_ngrams_are_told_apart():
    """Equal contexts and candidates share an entry; others hardly ever do."""
    generator = torch.Generator().manual_seed(0)
    context = torch.randint(0, 150_000, (4000, 4), generator=generator)
    candidates = torch.randint(0, 150_000, (4000, 2), generator=generator)
    keys = ngram_keys(context, candidates)
    assert torch.equal(keys, ngram_keys(context.clone(), candidates.clone()))
    assert keys.unique().numel() > 0.97 * keys.numel()
    changed = context.clone()
    changed[:, 2] += 1  # the last token but one
    same = keys == ngram_keys(changed, candidates)
    assert same[..., :2].all() and same[..., 2:].double().mean() < 0.01


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
