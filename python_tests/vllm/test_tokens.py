"""The engine's tokens are those of the specification, whatever the batch, blocks and scheduling."""

import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from vllm_requests import make_prompts, make_request, mixed_configs

import s2t_ext

pytestmark = pytest.mark.vllm

TRIGGERS = {
    "never": {},
    "random": {"threshold": 0.25},
    "entropy": {"threshold": 3.6},
    "margin": {"threshold": 0.1},
    "head": {"threshold": 0.5},
    "always": {},
}


@pytest.fixture(
    scope="module", params=["v1", pytest.param("v2", marks=pytest.mark.slow), "v2-async"]
)
def engine(request, tiny, start):
    """16 blocks of 32 tokens and 64 tokens per step: requests are chunked and preempted."""
    process = start(request.param, tiny, num_gpu_blocks_override=16)
    process.kind = request.param
    process.tokens = 40 if request.param == "v1" else 14  # interpreted bookkeeping is slow
    return process


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_mixed_requests(engine, tiny, trigger):
    prompts = make_prompts()
    configs = mixed_configs(len(prompts), trigger=trigger, **TRIGGERS[trigger])
    before = engine.statistics()["total"]
    answers = engine.generate(
        [
            make_request(prompt, config, engine.tokens)
            for prompt, config in zip(prompts, configs, strict=True)
        ]
    )
    after = engine.statistics()["total"]
    for prompt, config, answer in zip(prompts, configs, answers, strict=True):
        assert answer["tokens"] == tiny.reference(prompt, config, engine.tokens)
    fired = after["triggers"] - before["triggers"]
    assert (fired > 0) == (trigger != "never")
    assert (after["changed"] - before["changed"] > 0) == (trigger != "never")
    if engine.kind != "v2-async":  # which runs one that has been decided anew once more
        assert after["steps"] - before["steps"] >= len(prompts) * engine.tokens


def test_preemption_prefix_cache_and_stop_tokens(engine, tiny):
    base = make_prompts((5, 31, 64, 70, 100), seed=5)
    prompts = [base[i % 5] for i in range(12)]
    triggers = (
        {"trigger": "always"},
        {"trigger": "margin", "threshold": 0.1},
        {"trigger": "never"},
    )
    stops = list(range(3, 1000, 25))
    for round_ in range(2):
        configs = [
            s2t_ext.S2TConfig(warmup_steps=0, **triggers[(i + round_) % 3]) for i in range(12)
        ]
        lengths = [1 + (7 * i) % 40 for i in range(12)]
        requests = [
            make_request(prompts[i], configs[i], lengths[i], stop_token_ids=stops[: 40 * (i % 2)])
            for i in range(12)
        ]
        for i, answer in enumerate(engine.generate(requests)):
            expected = tiny.reference(
                prompts[i], configs[i], lengths[i], eos_token_ids=stops if i % 2 else ()
            )
            assert answer["tokens"] == expected, (round_, i)
    counters = engine.counters()
    assert counters["preemptions"] > 0
    assert counters["cached_tokens"] > 0


def test_logprobs_are_those_of_the_chosen_token(engine, tiny):
    prompt = make_prompts((20,))[0]
    config = s2t_ext.S2TConfig(trigger="always", warmup_steps=0)
    (answer,) = engine.generate([make_request(prompt, config, 6, logprobs=0)])
    assert answer["tokens"] == tiny.reference(prompt, config, 6)
    with torch.no_grad():
        logits = tiny.model(torch.tensor([prompt + answer["tokens"]])).logits[0].log_softmax(-1)
    expected = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(answer["tokens"])[:, None])
    assert torch.allclose(torch.tensor(answer["logprobs"]), expected[:, 0], atol=1e-4)


def test_candidates_are_proposed_after_penalties(engine, tiny):
    prompt = make_prompts((20,))[0]
    config = s2t_ext.S2TConfig(trigger="always", warmup_steps=0)
    (answer,) = engine.generate([make_request(prompt, config, 8, repetition_penalty=1.5)])
    penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])
    assert answer["tokens"] == tiny.reference(prompt, config, 8, logits_processor=penalty)


def test_sampling(engine, tiny):
    """Temperature is for the steps that do not trigger; a choice has its own temperature."""
    prompts = make_prompts((20, 33))
    always = s2t_ext.S2TConfig(trigger="always", warmup_steps=0)
    answers = engine.generate([make_request(p, always, 6, temperature=2.0) for p in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer["tokens"] == tiny.reference(prompt, always, 6)

    drawn = s2t_ext.S2TConfig(trigger="always", warmup_steps=0, score_temperature=1.0)
    seeds = [
        engine.generate([make_request(prompts[0], drawn, 8, seed=seed)])[0]["tokens"]
        for seed in (1, 1, 2)
    ]
    assert seeds[0] == seeds[1] != seeds[2]

    never = s2t_ext.S2TConfig(trigger="never")
    sampled = [
        engine.generate([make_request(prompts[0], never, 8, temperature=1.0, seed=seed)])[0][
            "tokens"
        ]
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_off_is_the_plain_model(engine, tiny):
    prompt = make_prompts((20,))[0]
    request = {"prompt": prompt, "max_tokens": 8, "ignore_eos": True, "extra_args": {"s2t": "off"}}
    before = engine.statistics()["total"]
    (answer,) = engine.generate([request])
    assert engine.statistics()["total"] == before
    sequence = tiny.model.generate(
        torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert answer["tokens"] == sequence[0, 20:].tolist()


@pytest.mark.parametrize(
    "extra_args, message",
    [
        ({"s2t_kk": 8}, "request: keys must be among"),
        ({"s2t_k": 65}, "request: s2t_k must be in [1, 64], got 65"),
        ({"s2t_k": "8"}, "request: s2t_k must be an integer, got '8'"),
        ({"s2t_trigger": "kl"}, "request: s2t_trigger must be one of"),
        ({"s2t_trigger": "entropy"}, "request: s2t_threshold must be given with"),
        ({"s2t_threshold": 1.0}, "request: s2t_trigger must be given with s2t_threshold, got None"),
        ({"s2t_trigger": "head", "s2t_threshold": 2}, "request: s2t_threshold must be in [0, 1]"),
        ({"s2t": "maybe"}, "request: s2t must be 'on' or 'off', got 'maybe'"),
    ],
)
def test_wrong_options_are_refused(engine, extra_args, message):
    prompt = make_prompts((20,))[0]
    config = s2t_ext.S2TConfig(trigger="always", warmup_steps=0)
    wrong = {"prompt": prompt, "max_tokens": 4, "extra_args": extra_args}
    answers = engine.generate([wrong, make_request(prompt, config, 4)])
    assert message in answers[0]["error"]
    assert len(answers[1]["tokens"]) == 4


#: Trigger "always" from this of 6 tokens on -> forward passes of the engine beyond its 6, those of
#: look-ahead among them, and rows of candidates, all with deferred choices and k = 4.
DEFERRED_COUNTS = {
    6: (0, 0, 0),
    # The engine plans no seventh step for the last token, so that its choice looks ahead.
    5: (1, 1, 4),
    # The token before it is answered a step late, so that the engine plans a seventh step, in which
    # the last candidates ride, and, as it learns of the end a step late, an eighth.
    4: (2, 0, 2 * 3),
    0: (2, 0, 6 * 3),
}


@pytest.mark.parametrize("warmup_steps", DEFERRED_COUNTS)
def test_counted_forwards(engine, tiny, warmup_steps):
    """No choice costs a forward pass when it is deferred, but at the end of a request."""
    tokens, chosen = 6, 6 - warmup_steps
    (prompt,) = make_prompts((20,), seed=11)
    config = s2t_ext.S2TConfig(trigger="always", k=4, warmup_steps=warmup_steps)
    before = engine.counters(), engine.statistics()["total"]
    (answer,) = engine.generate([make_request(prompt, config, tokens)])
    after = engine.counters(), engine.statistics()["total"]
    assert answer["tokens"] == tiny.reference(prompt, config, tokens)
    forwards = after[0]["forwards"] - before[0]["forwards"]
    lookahead, rows = (after[1][name] - before[1][name] for name in ("forwards", "rows"))
    if engine.kind == "v2-async":
        assert (forwards - tokens, lookahead, rows) == DEFERRED_COUNTS[warmup_steps]
    else:
        assert (forwards - tokens, lookahead, rows) == (chosen, chosen, chosen * 4)


def test_choices_at_the_end_of_requests_that_others_outlive(engine, tiny):
    """Deferred, they need no forward pass of their own; mixed lengths end in every step."""
    prompts = make_prompts((5, 20, 31, 40), seed=12)
    config = s2t_ext.S2TConfig(trigger="always", k=4, warmup_steps=0)
    lengths = (3, 5, 7, 12)
    before = engine.statistics()["total"]
    answers = engine.generate(
        [make_request(p, config, n) for p, n in zip(prompts, lengths, strict=True)]
    )
    after = engine.statistics()["total"]
    for prompt, length, answer in zip(prompts, lengths, answers, strict=True):
        assert answer["tokens"] == tiny.reference(prompt, config, length)
    extra = after["forwards"] - before["forwards"]
    assert extra == 0 if engine.kind == "v2-async" else extra >= max(lengths)
    assert after["triggers"] - before["triggers"] == sum(lengths)


def test_preemption_before_the_last_token(tiny, start):
    """The winner that was held back for it is decided anew: the last of six tokens needs a block
    more for every request, and there is none.
    """
    options = {"num_gpu_blocks_override": 9, "max_num_batched_tokens": 256, "max_model_len": 128}
    process = start("v2-async", tiny, **options)
    prompts = make_prompts((59,) * 4, seed=13)
    config = s2t_ext.S2TConfig(trigger="always", k=4, warmup_steps=0)
    answers = process.generate([make_request(prompt, config, 6) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer["tokens"] == tiny.reference(prompt, config, 6)
    assert process.counters()["preemptions"] > 0
    assert process.statistics()["total"]["triggers"] == 4 * 6
    process.close()


@pytest.mark.parametrize("kind", ["v1", pytest.param("v2", marks=pytest.mark.slow), "v2-async"])
def test_a_selector_of_a_middle_layer(kind, deep, start):
    engine = start(kind, deep, num_gpu_blocks_override=16)
    tokens = 20 if kind == "v1" else 10
    prompts = make_prompts()
    for trigger in ("random", "always"):
        configs = mixed_configs(len(prompts), trigger=trigger, **TRIGGERS[trigger])
        answers = engine.generate(
            [make_request(p, c, tokens) for p, c in zip(prompts, configs, strict=True)]
        )
        for prompt, config, answer in zip(prompts, configs, answers, strict=True):
            assert answer["tokens"] == deep.reference(prompt, config, tokens)
    assert engine.statistics()["total"]["changed"] > 0
