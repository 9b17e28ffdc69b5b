"""The options of a choice, one by one, against the reference: candidates, prior, reserved tokens,
parts of the head, processors.
"""

import pytest
import torch
from architectures import EOS, PAD, PROMPT
from greedy import check, run
from models import assert_equals_reference, make_selector, prompts, tiny_model
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

import s2t_ext
from s2t_ext import S2TConfig


@pytest.mark.parametrize("name", ["qwen2", "mistral_window", "falcon_h1"])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_number_of_candidates(name, k):
    model = tiny_model(name)
    config = S2TConfig(k=k, trigger="always", warmup_steps=0)
    record = check(model, prompts(True), config, make_selector(model), 8)
    ranks = [rank for row in record.rows for rank in row.chosen_ranks]
    assert max(ranks) < k
    assert (record.changed_tokens == 0) == (k == 1)


@pytest.mark.parametrize("prior_weight", [0.3, -0.3])
def test_prior_term(prior_weight):
    model = tiny_model("qwen3")
    config = S2TConfig(trigger="always", warmup_steps=0)
    plain = run(model, prompts(True), config, make_selector(model))
    selector = make_selector(model, prior_weight=prior_weight)
    check(model, prompts(True), config, selector)
    with_prior = run(model, prompts(True), config, selector)
    assert not torch.equal(plain.sequences, with_prior.sequences)


def test_prior_term_of_any_size_is_greedy_decoding():
    """The likeliest candidate wins when only the prior counts."""
    model, inputs = tiny_model("llama"), prompts(True)
    config = S2TConfig(trigger="always", warmup_steps=0)
    output = run(model, inputs, config, make_selector(model, prior_weight=1e6))
    expected = run(model, inputs, S2TConfig(trigger="never"))
    assert torch.equal(output.sequences, expected.sequences)
    assert output.s2t.triggers > 0 and output.s2t.changed_tokens == 0


@pytest.mark.parametrize("name, margin", [("qwen3", 0.02), ("falcon_h1", 0.1)])
def test_override_margin(name, margin):
    """Overrides that gain less than the margin are refused, and the record says where."""
    model, selector = tiny_model(name), make_selector(tiny_model(name))
    always = dict(trigger="always", warmup_steps=0)
    plain = run(model, prompts(True), S2TConfig(**always), selector).s2t
    assert plain.refused_overrides == 0 and plain.changed_tokens > 0
    record = check(model, prompts(True), S2TConfig(**always, override_margin=margin), selector)
    assert 0 < record.refused_overrides < record.triggers - record.changed_tokens + 1
    assert record.summary()["refused_overrides"] == record.refused_overrides
    for row in record.rows:
        ranks = dict(zip(row.triggered_steps, row.chosen_ranks, strict=True))
        assert all(ranks[step] == 0 for step in row.refused_steps)


def test_a_margin_no_score_reaches_is_greedy_decoding():
    """Scores lie in [0, 1]: none is higher by more than 1."""
    model, inputs = tiny_model("llama"), prompts(True)
    config = S2TConfig(trigger="always", warmup_steps=0, override_margin=1.0)
    output = run(model, inputs, config, make_selector(model))
    expected = run(model, inputs, S2TConfig(trigger="never"))
    assert torch.equal(output.sequences, expected.sequences)
    assert output.s2t.changed_tokens == 0 and output.s2t.refused_overrides > 0


@pytest.mark.parametrize("ratio", [0.75, 0.999])
@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_candidate_ratio(name, ratio):
    """Unlikely candidates are not looked at; the favourite always is."""
    model, selector = tiny_model(name), make_selector(tiny_model(name))
    config = S2TConfig(trigger="always", warmup_steps=0, candidate_ratio=ratio)
    record = check(model, prompts(True), config, selector)
    everything = run(model, prompts(True), S2TConfig(trigger="always", warmup_steps=0), selector)
    assert _mean_rank(record) < _mean_rank(everything.s2t)


def _mean_rank(record) -> float:
    return sum(sum(row.chosen_ranks) for row in record.rows) / record.triggers


@pytest.mark.parametrize("name", ["qwen2", "mamba2"])
def test_reserved_ids_are_never_generated(name):
    """Not by a choice, and not by an ordinary step."""
    model, inputs = tiny_model(name), prompts(True)
    config = S2TConfig(trigger="random", threshold=0.5, warmup_steps=0)
    free = run(model, inputs, config, make_selector(model), seed=3)
    reserved = sorted({int(t) for t in free.sequences[:, PROMPT:].flatten()} - {PAD, EOS})[:16]
    selector = make_selector(model, reserved_ids=reserved)
    check(model, inputs, config, selector, seed=3)
    output = run(model, inputs, config, selector, seed=3)
    assert not set(output.sequences[:, PROMPT:].flatten().tolist()) & set(reserved)


def test_head_with_bias_values_and_temperature():
    """Every part of the score head reaches the kernel."""
    model = tiny_model("llama")
    generator = torch.Generator().manual_seed(0)
    selector = make_selector(
        model,
        bins=5,
        bias=torch.randn(5, generator=generator),
        bin_values=torch.rand(5, generator=generator),
        bin_temperature=0.5,
        logit_scale=1.5,
        softcap=4.0,
        prior_weight=0.05,
    )
    check(model, prompts(True), S2TConfig(trigger="always", warmup_steps=0), selector)


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere2", "falcon_h1", "gpt_neox"])
def test_reserved_rows_of_the_head_are_post_processed_like_logits(name):
    """Score rows taken from the vocabulary score as the model's own logits there do."""
    model = tiny_model(name)
    reserved = list(range(80, 96))
    selector = s2t_ext.Selector.from_reserved_rows(model, reserved)
    with torch.no_grad():
        from s2t_ext.reference.decoding import _last_state

        logits, hidden = _last_state(model, prompts(False).ids[:1])
    p = logits[:, reserved].softmax(-1)
    torch.testing.assert_close(
        selector.score(hidden), (p * torch.linspace(0, 1, 16)).sum(-1), atol=1e-5, rtol=0
    )
    check(model, prompts(True), S2TConfig(trigger="always", warmup_steps=0), selector, 6)


def test_processors_shape_the_proposal():
    """The candidates of a choice obey the same processors as an ordinary token."""
    model, inputs = tiny_model("llama"), prompts(False)
    config = S2TConfig(trigger="random", threshold=0.5, warmup_steps=0)
    selector = make_selector(model)
    banned = list(range(3, 50))
    output = run(
        model, inputs, config, selector, seed=3, repetition_penalty=1.7, suppress_tokens=banned
    )
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(1.7), SuppressTokensLogitsProcessor(banned)]
    )
    assert_equals_reference(
        output.sequences,
        model,
        inputs,
        config=config,
        selector=selector,
        new_tokens=12,
        seed=3,
        processors=processors,
    )
    assert not set(output.sequences[:, PROMPT:].flatten().tolist()) & set(banned)
