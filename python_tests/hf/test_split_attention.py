"""Attention split into an unmasked prefix and each candidate's own entry: the masked softmax, in
other words. The GPU's path runs here through the CPU's flash kernel.
"""

import pytest
import torch
from architectures import PAD
from models import assert_equals_reference, make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig
from s2t_ext.hf.attention import split_attention
from s2t_ext.hf.attention.candidate_attention import attend
from s2t_ext.hf.attention.layout import CandidateLayout

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)


def operands(batch, kv_heads, groups, candidates, prefix, size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(batch * 1000 + prefix)

    def drawn(heads, length):
        return torch.randn(batch, heads, length, size, generator=generator).to(dtype)

    query = drawn(kv_heads * groups, candidates)
    return query, drawn(kv_heads, prefix + candidates), drawn(kv_heads, prefix + candidates)


def split(query, key, value, scaling):
    batch, heads, candidates, size = query.shape
    packed = query.reshape(batch, key.shape[1], -1, size)
    output = split_attention.attend_split(packed, key, value, candidates, scaling)
    return output.reshape(batch, heads, candidates, -1).transpose(1, 2)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("kv_heads", "groups"), [(1, 1), (2, 7), (4, 1)])
@pytest.mark.parametrize("candidates", [1, 2, 8])
@pytest.mark.parametrize("prefix", [1, 5, 300])
def test_equals_masked_attention(batch, kv_heads, groups, candidates, prefix):
    query, key, value = operands(batch, kv_heads, groups, candidates, prefix, 16, torch.float32)
    layout = CandidateLayout(candidates)
    allowed = layout.allowed(prefix + candidates, None, groups, query.device)
    expected = attend(query.double(), key.double(), value.double(), allowed, 0.3)
    actual = split(query, key, value, 0.3).double()
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("score", [-200.0, 200.0])
def test_an_own_score_far_from_the_others_neither_overflows_nor_vanishes(score):
    query = torch.ones(1, 1, 1, 4)
    key = torch.zeros(1, 1, 3, 4)
    key[:, :, -1] = score
    value = torch.stack([torch.full((4,), float(i)) for i in range(3)])[None, None]
    output = split(query, key, value, 1.0)
    expected = 2.0 if score > 0 else 0.5
    torch.testing.assert_close(output, torch.full((1, 1, 1, 4), expected))


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_decoding_with_it_equals_the_reference(name, monkeypatch):
    calls = []
    original = split_attention.attend_split
    monkeypatch.setattr(split_attention, "is_faster", lambda query, key, value: True)
    monkeypatch.setattr(
        split_attention,
        "attend_split",
        lambda *arguments: calls.append(1) or original(*arguments),
    )
    model, selector, inputs = tiny_model(name), make_selector(tiny_model(name)), prompts(False)
    generate = way_in("generate", model, ALWAYS, selector, seed=3)
    options = dict(do_sample=False, eos_token_id=None, pad_token_id=PAD)
    generate(input_ids=inputs.ids, max_new_tokens=1, **options)  # the self-test uses it too
    calls.clear()
    output = generate(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=12, **options
    )
    assert_equals_reference(
        output, model, inputs, config=ALWAYS, selector=selector, new_tokens=12, seed=3, eos=()
    )
    assert len(calls) == 12 * model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (CandidateLayout(8), 8),
        (CandidateLayout(8, num_pending=1), 0),
        (CandidateLayout(8, token_mask=torch.ones(1, 5, dtype=torch.bool)), 0),
    ],
)
def test_only_candidates_over_an_unpadded_prefix_go_without_a_mask(layout, expected):
    assert layout.unmasked_candidates == expected


def test_a_cpu_keeps_the_masked_kernel():
    query, key, value = operands(1, 1, 1, 2, 5, 16, torch.bfloat16)
    assert not split_attention.is_faster(query, key, value)
