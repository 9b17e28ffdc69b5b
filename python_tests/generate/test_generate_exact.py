"""Whole generations, token for token: without choices `model.generate`'s, with choices those of the
reference, which recomputes every prefix.
"""

import math

import pytest
import torch
from architectures import ARCHITECTURES, PAD, PROMPT, RESTARTS_WHOLE, longrope_config
from greedy import check, run
from models import Prompts, assert_equals_reference, build_model, make_selector, prompts, tiny_model

from s2t_ext import S2TConfig

TREE_ARCHITECTURES = [name for name, a in ARCHITECTURES.items() if a.step_mode == "tree"]


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_choices_it_is_generate(name, padded):
    """A trigger that cannot fire leaves transformers' own cache in place; one that could fire, but
    does not, decodes from ours. Either way the tokens are `model.generate`'s.
    """
    model, inputs = tiny_model(name), prompts(padded)
    new_tokens = ARCHITECTURES[name].new_tokens
    expected = model.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=new_tokens, do_sample=False
    )
    never = run(model, inputs, S2TConfig(trigger="never"), None, new_tokens)
    assert torch.equal(never.sequences, expected)
    assert never.s2t.step_mode == "none"
    idle = S2TConfig(trigger="entropy", threshold=1e3)
    output = run(model, inputs, idle, make_selector(model), new_tokens)
    assert torch.equal(output.sequences, expected)
    assert output.s2t.step_mode == ARCHITECTURES[name].step_mode
    for record in (never.s2t, output.s2t):
        assert record.triggers == 0
        assert record.forward_passes == expected.shape[1] - PROMPT


@pytest.mark.parametrize("trigger", ["never", "entropy"])
def test_torchs_generator_is_generates(trigger):
    """Others draw from it too: dropout, and what the caller does next."""
    model, inputs = build_model("gpt2").train(), prompts(True)
    threshold = 1e3 if trigger == "entropy" else None
    config = S2TConfig(trigger=trigger, threshold=threshold)
    torch.manual_seed(3)
    expected = model.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=6, do_sample=False
    )
    after = torch.rand(3)
    torch.manual_seed(4)
    other = model.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=6, do_sample=False
    )
    assert not torch.equal(other, expected)
    torch.manual_seed(3)
    output = run(model, inputs, config, make_selector(tiny_model("gpt2")), 6)
    assert torch.equal(output.sequences, expected)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize(
    ("padded", "rate"), [(True, 0.0), (True, 0.1), (True, 0.5), (True, 1.0), (False, 0.5)]
)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_random_choices_equal_the_reference(name, padded, rate):
    """Any share of choices, each row its own, in one forward pass per token."""
    model, inputs = tiny_model(name), prompts(padded)
    architecture = ARCHITECTURES[name]
    config = S2TConfig(k=4, trigger="random", threshold=rate, warmup_steps=0)
    selector = make_selector(model)
    record = check(model, inputs, config, selector, architecture.new_tokens, seed=3)
    if rate == 0.0:
        assert record.triggers == 0
        return
    assert record.step_mode == architecture.step_mode
    # A choice in the last step has computed one token more than an ordinary step would have.
    assert record.forward_passes - max(row.steps for row in record.rows) in (0, 1)
    if rate == 1.0:
        assert record.triggers == record.steps and record.changed_tokens > 0


@pytest.mark.parametrize("trigger", ["entropy", "margin"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba2", "gpt2"])
def test_statistic_triggers_equal_the_reference(name, trigger):
    """The model's own uncertainty decides; the threshold is the median of an idle run."""
    model, inputs = tiny_model(name), prompts(True)
    never = run(model, inputs, S2TConfig(trigger=trigger, threshold=_never_fires(trigger)))
    statistics = torch.tensor([v for row in never.s2t.rows for v in row.statistics])
    config = S2TConfig(trigger=trigger, threshold=float(statistics.median()), warmup_steps=2)
    record = check(model, inputs, config, make_selector(model))
    assert 0 < record.triggers < record.steps
    assert all(step >= 2 for row in record.rows for step in row.triggered_steps)


def _never_fires(trigger: str) -> float:
    return -math.inf if trigger == "margin" else math.inf


@pytest.mark.parametrize("name", ["llama", "gemma3", "falcon_h1"])
def test_rows_stop_at_eos(name):
    """A row that ends by an ordinary step or by a choice is padded; the others go on unchanged."""
    model, inputs = tiny_model(name), prompts(True)
    config = S2TConfig(trigger="random", threshold=0.5, warmup_steps=0)
    selector = make_selector(model)
    free = run(model, inputs, config, selector, seed=3, eos_token_id=None, pad_token_id=PAD)
    new = free.sequences[:, PROMPT:]
    eos = [int(new[0, 3]), int(new[1, 6])]  # each ends a row early
    output = run(model, inputs, config, selector, seed=3, eos_token_id=eos)
    assert_equals_reference(
        output.sequences,
        model,
        inputs,
        config=config,
        selector=selector,
        new_tokens=12,
        seed=3,
        eos=tuple(eos),
    )
    lengths = [row.steps for row in output.s2t.rows]
    assert min(lengths) < 12 and len(set(lengths)) > 1
    for row, length in zip(output.sequences[:, PROMPT:], lengths, strict=True):
        assert not torch.isin(row[: length - 1], torch.tensor(eos)).any()
        assert (row[length:] == PAD).all()


@pytest.mark.parametrize("name", TREE_ARCHITECTURES)
def test_expanding_equals_the_tree(name):
    """Both ways of sharing a step choose the same tokens."""
    model, inputs, selector = tiny_model(name), prompts(True), make_selector(tiny_model(name))
    outputs = [
        run(
            model,
            inputs,
            S2TConfig(trigger="random", threshold=0.5, warmup_steps=0, step=step),
            selector,
            seed=3,
        )
        for step in ("tree", "expand")
    ]
    assert [o.s2t.step_mode for o in outputs] == ["tree", "expand"]
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)


@pytest.mark.parametrize("step", ["tree", "expand"])
def test_one_forward_pass_a_token_and_nothing_computed_twice(step):
    """K tokens of the rows that need a choice go through the model, and one of the others."""
    model, inputs, selector = (
        tiny_model("llama"),
        prompts(False),
        make_selector(tiny_model("llama")),
    )
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    # Without an end-of-sequence token every row runs to the end.
    output = run(model, inputs, config, selector, seed=3, eos_token_id=None, pad_token_id=PAD)
    triggered = torch.zeros(2, 12, dtype=torch.bool)
    for row, record in enumerate(output.s2t.rows):
        triggered[row, record.triggered_steps] = True
    some, last = triggered.any(dim=0), bool(triggered[:, -1].any())
    assert output.s2t.forward_passes == 12 + last
    tokens = inputs.ids.numel()
    for t in range(12):
        if some[t]:
            tokens += int(4 * triggered[:, t].sum() + (~triggered[:, t]).sum())
        elif t < 11:
            tokens += 2
    assert output.s2t.tokens_through_model == tokens


@RESTARTS_WHOLE
@pytest.mark.parametrize("window", [None, 7], ids=["full", "window"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_longrope_across_its_switch(rate, window):
    """The model recomputes its prefix when the rope changes (here at 12 tokens, prompt of 9): that
    step is expanded, the others are trees. Rows switch together, so one row at a time.
    """
    model = build_model(longrope_config(window))
    ids = prompts(False).ids[:1]
    inputs = Prompts(ids, torch.ones_like(ids))
    config = S2TConfig(k=4, trigger="random", threshold=rate, warmup_steps=0)
    record = check(model, inputs, config, make_selector(model), 14, seed=2)
    assert (record.triggers > 0) == (rate > 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.slow
def test_long_generations_equal_the_reference(name, seed):
    """More prompts, more tokens, wider choices."""
    model, inputs = tiny_model(name), prompts(seed % 2 == 1, seed=10 + seed)
    config = S2TConfig(k=8, trigger="random", threshold=0.4, warmup_steps=3)
    selector = make_selector(model, seed=seed, prior_weight=0.05 * seed)
    check(model, inputs, config, selector, 4 * ARCHITECTURES[name].new_tokens, seed=seed)
