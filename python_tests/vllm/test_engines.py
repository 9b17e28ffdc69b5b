"""Other models and other set-ups of the engine: several cache groups, tensor parallelism, long
runs, what is refused at start.
"""

import pytest
from vllm_requests import make_prompts, make_request, mixed_configs

import s2t_ext

pytestmark = pytest.mark.vllm

CASES = [{"trigger": "margin", "threshold": 0.1}, {"trigger": "always"}]


def assert_equal_reference(process, served, configs, prompts, new_tokens):
    answers = process.generate(
        [make_request(p, c, new_tokens) for p, c in zip(prompts, configs, strict=True)]
    )
    for prompt, config, answer in zip(prompts, configs, answers, strict=True):
        assert answer["tokens"] == served.reference(prompt, config, new_tokens)


@pytest.mark.parametrize("kind", ["v1", pytest.param("v2-async", marks=pytest.mark.slow)])
def test_sliding_window(kind, sliding, start):
    """Full attention and a window have block tables of their own."""
    process = start(kind, sliding)
    prompts = make_prompts()
    for case in CASES:
        configs = mixed_configs(len(prompts), **case)
        assert_equal_reference(process, sliding, configs, prompts, 24 if kind == "v1" else 10)
    assert process.statistics()["total"]["changed"] > 0
    process.close()


def test_tensor_parallel(tiny, start):
    """Every rank sees the same logits and decides alike."""
    process = start("v1", tiny, tensor_parallel_size=2, distributed_executor_backend="mp")
    prompts = make_prompts((5, 31, 32, 70))
    for case in CASES:
        assert_equal_reference(process, tiny, mixed_configs(4, **case), prompts, 16)
    assert process.statistics()["total"]["changed"] > 0
    process.close()


@pytest.mark.parametrize(
    "kind, tokens", [("v1", 2000), pytest.param("v2-async", 150, marks=pytest.mark.slow)]
)
def test_soak(kind, tokens, tiny, start):
    """Long requests beside others that are aborted and malformed: nothing leaks, nobody notices."""
    process = start(kind, tiny, max_model_len=2176, num_gpu_blocks_override=220)
    prompts = make_prompts((20, 33, 64), seed=7)
    configs = mixed_configs(3, trigger="margin", threshold=0.05)
    long = [make_request(p, c, tokens) for p, c in zip(prompts, configs, strict=True)]
    alone = process.generate(long[:1])[0]["tokens"]
    free = process.counters()["free_blocks"]
    always = s2t_ext.S2TConfig(trigger="always", warmup_steps=0)
    others = []
    for i, prompt in enumerate(make_prompts(range(10, 50), seed=8)):
        others.append(make_request(prompt, always, 60, abort_after=1 + i % 7))
        others.append({"prompt": prompt, "max_tokens": 4, "extra_args": {"s2t_k": 1000}})
    answers = process.generate(long + others)
    assert answers[0]["tokens"] == alone
    assert [len(answer["tokens"]) for answer in answers[:3]] == [tokens] * 3
    assert all("tokens" in answer for answer in answers[3::2])
    assert all("s2t_k must be in [1, 64]" in answer["error"] for answer in answers[4::2])
    assert process.counters()["free_blocks"] == free
    process.close()


@pytest.mark.parametrize(
    "server, options, message",
    [
        ({"selektor": 1}, {}, "additional_config must use keys among"),
        ({"trigger": "kl", "threshold": 1.0}, {}, "trigger must be one of"),
        ({"proposer": "base"}, {}, "proposer must be 'adapted'"),
        ({"lookahead_rows": 0}, {}, "lookahead_rows must be an integer of at least 1, got 0"),
        ({}, {"enable_prompt_embeds": True}, "enable_prompt_embeds must be off, got on"),
    ],
)
@pytest.mark.slow
def test_refused_at_start(tiny, start, server, options, message):
    with pytest.raises(ValueError, match="s2t_ext.vllm: ") as error:
        start("v1", tiny, server, **options)
    assert message in str(error.value)
