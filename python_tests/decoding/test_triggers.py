"""Triggers: one statistic each, compared with a threshold."""

import math

import pytest
import torch
from architectures import PROMPT
from models import make_selector, prompts, tiny_model, way_in

from s2t_ext import Calibration, S2TConfig, Selector, TriggerHead, ops
from s2t_ext.ops.reference import propose_candidates
from s2t_ext.ops.reference.philox import PURPOSE_TRIGGER
from s2t_ext.selectors.thresholds import resolve_trigger
from s2t_ext.triggers import TRIGGERS, EntropyTrigger, Trigger, TriggerInputs, register

ROWS = torch.zeros(4, 32)


def statistic(name, logits, k=8, **reads):
    proposal = propose_candidates(logits, k, 64)
    inputs = TriggerInputs(proposal.logits, proposal.support_entropy, **reads)
    return TRIGGERS[name](0.5, 0).statistic(inputs, 0)


def uniform(batch):
    seed, position = torch.arange(batch), torch.zeros(batch, dtype=torch.int64)
    return lambda: ops.random_uniform(seed, position, PURPOSE_TRIGGER)


def test_entropy_is_of_the_renormalised_support():
    logits = torch.randn(5, 300) * 3
    p = logits.double().topk(64).values.softmax(-1)
    expected = -(p * p.log()).sum(-1)
    torch.testing.assert_close(statistic("entropy", logits).double(), expected, atol=1e-5, rtol=0)


def test_margin_is_between_the_two_best():
    logits = torch.randn(5, 300) * 3
    best = logits.topk(2).values
    assert torch.equal(statistic("margin", logits), best[:, 0] - best[:, 1])
    assert torch.equal(statistic("margin", logits, k=1), torch.full((5,), math.inf))
    logits[0] = -math.inf
    logits[1, 1:] = -math.inf
    margins = statistic("margin", logits)
    fired = TRIGGERS["margin"](1e30, 0).fires(margins, 0)
    assert fired.tolist() == [False, False, True, True, True]  # NaN and +inf never fire


def test_random_is_uniform_and_the_rows_own():
    batch = 20_000
    logits = torch.zeros(batch, 8)
    u = statistic("random", logits, uniform=uniform(batch))
    assert 0 <= u.min() and u.max() < 1
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by chance once in a thousand seeds.
    steps = torch.arange(1, batch + 1) / batch
    assert (u.sort().values - steps).abs().max() < 1.95 / math.sqrt(batch)
    assert torch.equal(statistic("random", logits[:7], uniform=uniform(7)), u[:7])


@pytest.mark.parametrize("entropy_weight", [0.0, 0.7])
def test_head_reads_the_hidden_state_and_the_entropy(entropy_weight):
    weight = torch.randn(32)
    selector = Selector(ROWS, trigger_head=(weight, -0.3, entropy_weight))
    hidden, entropy = torch.randn(3, 32), torch.tensor([0.1, 2.0, math.nan])
    actual = statistic(
        "head",
        torch.randn(3, 50),
        head_probability=lambda: selector.trigger_probability(hidden, entropy),
    )
    known = torch.tensor([0.1, 2.0, 0.0])
    torch.testing.assert_close(
        actual, torch.sigmoid(hidden @ weight - 0.3 + entropy_weight * known)
    )


def test_head_reads_the_best_log_probabilities():
    """Those it has weights for; unknown and impossible ones count as the floor."""
    weights = torch.tensor([0.5, -0.25])
    head = TriggerHead(torch.zeros(32), 0.1, 0.0, weights)
    selector = Selector(ROWS, trigger_head=head)
    hidden, entropy = torch.zeros(3, 32), torch.zeros(3)
    logprobs = torch.tensor([[-0.5, -1.5, -9.0], [-30.0, -math.inf, 0.0], [math.nan, -1.0, 0.0]])
    actual = selector.trigger_probability(hidden, entropy, logprobs)
    read = torch.tensor([[-0.5, -1.5], [-20.0, -20.0], [-20.0, -1.0]])
    torch.testing.assert_close(actual, torch.sigmoid(0.1 + read @ weights))
    for few, got in ((None, 0), (logprobs[:, :1], 1)):
        with pytest.raises(ValueError, match=f"logprobs must have at least 2 columns, got {got}"):
            selector.trigger_probability(hidden, entropy, few)
    config = S2TConfig(k=1, trigger="head", threshold=0.5)
    with pytest.raises(ValueError, match="k must be at least 2 for the selector's trigger head"):
        resolve_trigger(config, selector)


@pytest.mark.parametrize(
    ("trigger", "values", "fires"),
    [
        (TRIGGERS["entropy"](1.0, 0), [0.9, 1.0, 1.1, math.nan], [False, False, True, False]),
        (TRIGGERS["margin"](1.0, 0), [0.9, 1.0, 1.1, math.nan], [True, False, False, False]),
        (TRIGGERS["random"](0.5, 0), [0.4, 0.5, 0.6, 0.0], [True, False, False, True]),
        (TRIGGERS["head"](0.5, 0), [0.4, 0.5, 0.6, 1.0], [False, False, True, True]),
        (TRIGGERS["kl"](0.5, 0), [0.4, 0.5, 0.6, math.inf], [False, False, True, True]),
        (TRIGGERS["always"](math.nan, 0), [0.0, math.nan], [True, True]),
        (TRIGGERS["never"](math.nan, 0), [0.0, math.nan], [False, False]),
    ],
)
def test_fires(trigger, values, fires):
    assert trigger.fires(torch.tensor(values), 0).tolist() == fires


def test_nothing_fires_in_the_warmup():
    trigger = TRIGGERS["always"](math.nan, 3)
    fired = [bool(trigger.fires(torch.zeros(1), step)) for step in range(5)]
    assert fired == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("name", "threshold", "can"),
    [
        ("always", math.nan, True),
        ("never", math.nan, False),
        ("random", 0.0, False),
        ("random", 1e-9, True),
        ("head", 1.0, False),
        ("head", 0.999, True),
        ("entropy", math.inf, False),
        ("entropy", 1e9, True),
        ("margin", -math.inf, False),
        ("margin", math.inf, True),
        ("kl", math.inf, False),
    ],
)
def test_can_fire(name, threshold, can):
    trigger = TRIGGERS[name](threshold, 0)
    assert trigger.can_fire is can
    if not can:
        assert not trigger.fires(torch.tensor([0.0, 1.0, 1e38, -1e38]), 9).any()


def test_a_teacher_is_not_asked_where_nothing_can_fire():
    inputs = TriggerInputs(torch.zeros(2, 4), torch.zeros(2))  # asking would raise
    for trigger, step in ((TRIGGERS["kl"](0.5, 3), 2), (TRIGGERS["kl"](math.inf, 0), 9)):
        assert trigger.statistic(inputs, step).tolist() == [0.0, 0.0]
    with pytest.raises(AssertionError):
        TRIGGERS["kl"](0.5, 3).statistic(inputs, 3)


def test_a_new_trigger_needs_its_class_alone():
    """The configuration takes it, checks its range, and the loop decodes with it."""
    try:

        @register
        class Confidence(Trigger):
            name = "confidence"
            fires_below = True
            unreachable = 0.0
            range = (0.0, 1.0)
            is_calibrated = True

            def _measure(self, inputs):
                return inputs.logits.softmax(1)[:, 0]

        with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\] for trigger"):
            S2TConfig(trigger="confidence", threshold=2.0)
        model = tiny_model("llama")
        selector = make_selector(model)
        config = S2TConfig(k=4, trigger="confidence", threshold=0.99, warmup_steps=0)
        generate = way_in("generate", model, config, selector, seed=0)
        record = generate(
            input_ids=prompts(False).ids, max_new_tokens=6, return_dict_in_generate=True
        ).s2t
        assert record.triggers == record.steps > 0
    finally:
        TRIGGERS.pop("confidence", None)
    assert EntropyTrigger.name in TRIGGERS


# ---- thresholds ----------------------------------------------------------------------------------


def test_the_configurations_threshold_comes_before_the_selectors():
    selector = Selector(ROWS, calibrations={"entropy": Calibration(1.5, 0.01)})
    assert resolve_trigger(S2TConfig(), selector).threshold == 1.5
    assert resolve_trigger(S2TConfig(threshold=0.25), selector).threshold == 0.25
    assert resolve_trigger(S2TConfig(threshold=0), selector).threshold == 0.0
    trigger = resolve_trigger(S2TConfig(trigger="always", warmup_steps=7), None)
    assert math.isnan(trigger.threshold) and trigger.warmup_steps == 7


@pytest.mark.parametrize("name", ["entropy", "margin", "random", "head", "kl"])
def test_a_missing_threshold_is_named(name):
    selector = Selector(ROWS, calibrations={"other": Calibration(1.5, 0.01)})
    with pytest.raises(ValueError) as error:
        resolve_trigger(S2TConfig(trigger=name), selector)
    assert str(error.value) == (
        f"generate: threshold must be set for trigger='{name}' (or stored in the selector by "
        "s2t_ext.calibrate), got None"
    )


def test_a_missing_head_is_named():
    with pytest.raises(ValueError) as error:
        resolve_trigger(S2TConfig(trigger="head", threshold=0.5), Selector(ROWS))
    assert str(error.value) == (
        "generate: selector must have a trigger head for trigger='head', got none"
    )


# ---- in a generation -----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["tree", "expand"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_learned_trigger_reads_the_state_that_proposed(name, step):
    """The hidden state before every token: after the prompt, an ordinary step, or a choice."""
    model, inputs = tiny_model(name), prompts(True)
    weight = torch.randn(32, generator=torch.Generator().manual_seed(3))
    weights = torch.tensor([0.3, -0.2, 0.1])
    selector = make_selector(model, trigger_head=TriggerHead(weight, 0.0, 0.5, weights))
    never = S2TConfig(trigger="head", threshold=1.0, step=step)
    arguments = dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=8,
        eos_token_id=None,
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    idle = way_in("generate", model, never, selector)(**arguments)
    values = torch.tensor([row.statistics for row in idle.s2t.rows])
    threshold = float(values.median())
    config = S2TConfig(k=4, trigger="head", threshold=threshold, warmup_steps=0, step=step)
    output = way_in("generate", model, config, selector)(**arguments)
    assert 0 < output.s2t.triggers < output.s2t.steps
    for b, row in enumerate(output.s2t.rows):
        ids = output.sequences[b][None, PROMPT - int(inputs.mask[b].sum()) :]
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state[0]
            best = model(input_ids=ids).logits[0].log_softmax(-1).topk(3).values
        entropies = torch.tensor(row.entropies)
        known = 0.5 * entropies + best[-9:-1] @ weights
        expected = torch.sigmoid(hidden[-9:-1] @ weight + known)
        torch.testing.assert_close(torch.tensor(row.statistics), expected, atol=1e-4, rtol=0)
        fired = (torch.tensor(row.statistics) > threshold).nonzero().flatten().tolist()
        assert row.triggered_steps == fired
