"""What is reported of a selector on held-out groups: by the trigger, by entropy, beside n-grams."""

import json
import math

import pytest
import torch

from s2t_ext.distillation.groups import Group, Trajectory
from s2t_ext.distillation.quality.held_out import HeldOut
from s2t_ext.distillation.quality.ngrams import NgramModel, ngram_bar, ngram_keys

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
