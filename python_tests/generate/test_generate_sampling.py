"""Sampling: the distribution of tokens is the one transformers samples from.

Distributions are compared by Pearson's chi-square on thousands of rows. A right implementation
fails one such test in 10,000 by chance; seeds are fixed, so it either always does or never.
"""

import functools

import pytest
import torch
from architectures import BOS, EOS, PAD
from models import build_model, make_selector, tiny_model, way_in
from transformers import (
    LlamaConfig,
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    SynthIDTextWatermarkingConfig,
    TopKLogitsWarper,
    WatermarkingConfig,
)

from s2t_ext import S2TConfig
from s2t_ext.decoding.ordinary_token import OrdinaryToken

FALSE_ALARM = 1e-4
VOCAB, ROWS = 12, 4000
IDLE = S2TConfig(trigger="entropy", threshold=1e3)
NEVER = S2TConfig(trigger="never")
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
PROMPT = torch.tensor([[3, 7, 5]])

WARPERS = {
    "plain": dict(top_k=0),
    "default top_k": dict(),
    "temperature 0.5": dict(top_k=0, temperature=0.5),
    "temperature 1.7": dict(top_k=0, temperature=1.7),
    "top_k": dict(top_k=3),
    "top_p": dict(top_k=0, top_p=0.6),
    "min_p": dict(top_k=0, min_p=0.3),
    "four at once": dict(temperature=0.7, top_k=6, top_p=0.8, min_p=0.15),
    "typical_p": dict(top_k=0, typical_p=0.6),
    "top_h": dict(top_k=0, top_h=0.6),
    "epsilon_cutoff": dict(top_k=0, epsilon_cutoff=0.08),
    "eta_cutoff": dict(top_k=0, eta_cutoff=0.15),
    "renormalize_logits": dict(top_k=4, renormalize_logits=True),
    "repetition_penalty": dict(top_k=0, repetition_penalty=0.3),
    "suppress_tokens": dict(top_k=0, suppress_tokens=[4, 6, 8]),
    "logits_processor": dict(
        top_k=0, logits_processor=LogitsProcessorList([SuppressTokensLogitsProcessor([4, 6, 8])])
    ),
    "watermark": dict(top_k=0, watermarking_config=WatermarkingConfig(seeding_scheme="lefthash")),
    "synthid": dict(
        top_k=0,
        watermarking_config=SynthIDTextWatermarkingConfig(ngram_len=3, keys=[5, 11, 23]),
    ),
}


@functools.cache
def model():
    """Peaked enough for every warper to cut something off."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
    )
    model = build_model(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(4.0)
    return model


def probabilities(ids: torch.Tensor, warper: dict) -> torch.Tensor:
    """What transformers samples the next token of every row from, fp64 [batch, vocab]."""
    output = model().generate(
        ids,
        attention_mask=torch.ones_like(ids),  # the padding id is a token like any other here
        max_new_tokens=1,
        do_sample=True,
        return_dict_in_generate=True,
        output_scores=True,
        **warper,
    )
    return output.scores[0].double().softmax(-1)


def chi_square_p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """P(a statistic this large or larger); cells expected fewer than 5 times are pooled."""
    assert counts[expected == 0].sum() == 0, "a token that cannot be drawn was"
    small = expected < 5
    pooled = [torch.cat([c[~small], c[small].sum()[None]]) for c in (counts.double(), expected)]
    seen, wanted = (c[pooled[1] > 0] for c in pooled)
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    freedom = torch.tensor(float(len(wanted) - 1), dtype=torch.float64)
    return 1.0 if freedom == 0 else float(torch.special.gammaincc(freedom / 2, statistic / 2))


def test_the_test_notices():
    """A shift of 2 % between two tokens of twelve, at the number of rows used here."""
    p = torch.full((VOCAB,), 1 / VOCAB, dtype=torch.float64)
    q = p.clone()
    q[0], q[1] = q[0] + 0.02, q[1] - 0.02
    draws = torch.multinomial(q, ROWS, replacement=True, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(draws, minlength=VOCAB)
    assert chi_square_p_value(counts, p * ROWS) < FALSE_ALARM
    assert chi_square_p_value(counts, q * ROWS) > FALSE_ALARM


@pytest.mark.parametrize("name", WARPERS)
def test_next_token(name):
    warper = WARPERS[name]
    expected = probabilities(PROMPT, warper)[0] * ROWS
    config = NEVER if "watermarking_config" in warper else IDLE  # choices carry no watermark
    generate = way_in("generate", model(), config, make_selector(model()), seed=20)
    output = generate(input_ids=PROMPT.expand(ROWS, -1), max_new_tokens=1, do_sample=True, **warper)
    counts = torch.bincount(output[:, -1], minlength=VOCAB)
    assert chi_square_p_value(counts, expected) > FALSE_ALARM
    if name not in ("plain", "default top_k", "temperature 0.5", "temperature 1.7", "synthid"):
        plain = probabilities(PROMPT, dict(top_k=0))[0] * ROWS
        assert (expected - plain).abs().max() > 50  # the warper does something here


@pytest.mark.parametrize("way", ["custom_generate", "patch"])
def test_two_tokens(way):
    """Their joint distribution: later draws do not depend on earlier ones but by the model."""
    warper = dict(temperature=0.8, top_k=8, top_p=0.9)
    first = probabilities(PROMPT, warper)[0]
    every = torch.cat([PROMPT.expand(VOCAB, -1), torch.arange(VOCAB)[:, None]], dim=1)
    second = probabilities(every, warper)
    generate = way_in(way, model(), IDLE, make_selector(model()), seed=1000)
    output = generate(
        input_ids=PROMPT.expand(ROWS, -1),
        max_new_tokens=2,
        do_sample=True,
        eos_token_id=None,
        pad_token_id=PAD,
        **warper,
    )
    cells = output[:, -2] * VOCAB + output[:, -1]
    counts = torch.bincount(cells, minlength=VOCAB**2)
    expected = (first[:, None] * second).flatten() * ROWS
    assert chi_square_p_value(counts, expected) > FALSE_ALARM


def test_choices_by_score_temperature():
    """softmax(score / T) over the candidates."""
    selector = make_selector(model())
    events = []
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, score_temperature=0.1)
    generate = way_in("generate", model(), config, selector, seed=7, on_step=events.append)
    output = generate(input_ids=PROMPT.expand(ROWS, -1), max_new_tokens=1)
    candidates, scores = events[0].candidates[0], events[0].scores[0].double()
    assert (events[0].candidates == candidates).all()
    expected = torch.zeros(VOCAB, dtype=torch.float64)
    expected[candidates] = (scores / 0.1).softmax(-1) * ROWS
    counts = torch.bincount(output[:, -1], minlength=VOCAB)
    assert chi_square_p_value(counts, expected) > FALSE_ALARM
    assert (expected[candidates] > 100).all()


@pytest.mark.parametrize("name", [n for n in WARPERS if "watermarking_config" not in WARPERS[n]])
def test_reserved_ids_are_never_drawn(name):
    """Their probability goes to the others before any warper cuts something off, as if the ids were
    suppressed; whoever does the cutting.
    """
    warper = {**WARPERS[name], "suppress_tokens": [4, 6, 8]}
    warper.pop("logits_processor", None)
    expected = probabilities(PROMPT, warper)[0]
    reserved = {k: v for k, v in WARPERS[name].items() if k != "suppress_tokens"}
    selector = make_selector(model(), reserved_ids=(4, 6, 8))
    generate = way_in("generate", model(), IDLE, selector, seed=20)
    arguments = dict(max_new_tokens=1, do_sample=True, return_dict_in_generate=True, **reserved)
    output = generate(input_ids=PROMPT.expand(ROWS, -1), output_scores=True, **arguments)
    counts = torch.bincount(output.sequences[:, -1], minlength=VOCAB)
    assert chi_square_p_value(counts, expected * ROWS) > FALSE_ALARM
    torch.testing.assert_close(
        output.scores[0][0].double().softmax(-1), expected, atol=1e-6, rtol=0
    )


def test_a_row_goes_on_where_a_reserved_id_is_the_likeliest():
    """What is left of the one token that this warper keeps is not nothing."""
    warper = dict(do_sample=True, max_new_tokens=1, top_k=1, renormalize_logits=True)
    warper |= dict(pad_token_id=11)  # what a row without a token would emit
    favourite = int(model().generate(PROMPT, **warper)[0, -1])
    second = model().generate(PROMPT, suppress_tokens=[favourite], **warper)
    selector = make_selector(model(), reserved_ids=(favourite,))
    output = way_in("generate", model(), IDLE, selector)(input_ids=PROMPT, **warper)
    assert torch.equal(output, second)


@pytest.mark.parametrize("warper", [dict(top_k=0), dict(typical_p=0.9)], ids=["fused", "not fused"])
@pytest.mark.parametrize("config", [IDLE, S2TConfig(trigger="random", threshold=0.5)])
def test_a_row_depends_on_its_seed_alone(config, warper):
    """Not on the rows beside it, nor on torch's generator."""
    llama = tiny_model("llama")
    selector = make_selector(llama)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [5, 6, 7]])
    options = dict(do_sample=True, max_new_tokens=12, eos_token_id=None, pad_token_id=PAD, **warper)
    seeds = [31, 32, 33]
    together = way_in("generate", llama, config, selector, seed=seeds)(input_ids=ids, **options)
    assert not torch.equal(together[0], together[2])
    for row, seed in enumerate(seeds):
        torch.manual_seed(row)
        alone = way_in("generate", llama, config, selector, seed=seed)
        assert torch.equal(alone(input_ids=ids[row : row + 1], **options)[0], together[row])


def test_without_a_seed_torch_s_generator_decides():
    llama = tiny_model("llama")
    generate = way_in("generate", llama, IDLE, make_selector(llama))

    def draw(seed):
        torch.manual_seed(seed)
        return generate(input_ids=PROMPT, do_sample=True, max_new_tokens=12)

    first = draw(1)
    assert torch.equal(first, draw(1)) and not torch.equal(first, draw(2))
    assert not torch.equal(draw(1), generate(input_ids=PROMPT, do_sample=True, max_new_tokens=12))


def test_a_top_k_of_any_size_keeps_every_token():
    generate = way_in("generate", model(), IDLE, make_selector(model()), seed=4)
    draws = [
        generate(input_ids=PROMPT, do_sample=True, max_new_tokens=12, top_k=top_k)
        for top_k in (0, VOCAB, 10**9, 2**63, 10**30)
    ]
    assert all(torch.equal(draw, draws[0]) for draw in draws)


def test_every_warper_runs_once_a_step():
    """Some keep a state (SynthID's watermark), so scores and draw share one result."""

    class Counts(TopKLogitsWarper):
        calls = 0

        def __call__(self, input_ids, scores):
            Counts.calls += 1
            return super().__call__(input_ids, scores)

    generate = way_in("generate", model(), IDLE, make_selector(model()), seed=1)
    generate(
        input_ids=PROMPT,
        do_sample=True,
        max_new_tokens=5,
        eos_token_id=None,
        logits_processor=LogitsProcessorList([Counts(4)]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert Counts.calls == 5


def test_candidates_are_proposed_before_the_warpers():
    """A choice is among the model's own best, whatever the temperature."""
    selector, events = make_selector(model()), []
    generate = way_in("generate", model(), ALWAYS, selector, seed=7, on_step=events.append)
    cold = generate(input_ids=PROMPT, max_new_tokens=6, do_sample=True, top_k=1)
    greedy = generate(input_ids=PROMPT, max_new_tokens=6, do_sample=False)
    assert torch.equal(cold, greedy)
    assert (events[0].candidates >= 0).all()


@pytest.mark.parametrize(
    ("warpers", "fused"),
    [
        ([], True),
        ([TopKLogitsWarper(5)], True),
        ([TopKLogitsWarper(5), TopKLogitsWarper(4)], False),  # twice
        ([TopKLogitsWarper(5, filter_value=-100.0)], False),
        ([TopKLogitsWarper(1, min_tokens_to_keep=2)], False),
    ],
)
def test_which_warpers_the_kernel_does_itself(warpers, fused):
    ordinary = OrdinaryToken(LogitsProcessorList(warpers), do_sample=True)
    assert not ordinary.processors and (ordinary.fused is not None) is fused
    assert len(OrdinaryToken(LogitsProcessorList(warpers), do_sample=False).processors) == len(
        warpers
    )
