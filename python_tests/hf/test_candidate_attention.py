"""The attention of a candidate forward: who sees whom; everyone else keeps their own."""

import threading

import pytest
import torch
from models import assert_equals_reference, build_model, make_selector, prompts, way_in

from s2t_ext import S2TConfig
from s2t_ext.hf.attention.candidate_attention import (
    ATTENTION_NAME,
    attend,
    attention_configs,
    candidate_attention,
)
from s2t_ext.hf.attention.layout import CandidateLayout

CPU = torch.device("cpu")


def drawn(picture: str) -> torch.Tensor:
    """Bool [queries, keys] from lines of x and . characters."""
    return torch.tensor([[c == "x" for c in line.split()[0]] for line in picture.split()])


# ---- layouts -------------------------------------------------------------------------------------


def test_candidates_see_the_prefix_and_themselves():
    allowed = CandidateLayout(3).allowed(5, None, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("xxx.. xx.x. xx..x"))


def test_pending_tokens_are_causal():
    allowed = CandidateLayout(2, num_pending=3).allowed(7, None, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("xxx.... xxxx... xxxxx.. xxxxxx. xxxxx.x"))


def test_all_candidates_stand_at_the_same_position_in_a_window():
    """The window of 3 counts the token itself: two tokens before it, whatever its slot."""
    allowed = CandidateLayout(3).allowed(7, 3, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("..xxx.. ..xx.x. ..xx..x"))
    allowed = CandidateLayout(2, num_pending=2).allowed(6, 3, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("xxx... .xxx.. ..xxx. ..xx.x"))


def test_padding_is_seen_by_nobody_but_itself():
    """A row's padding may reach into the pending tokens, whose attention must not be empty."""
    mask = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()
    allowed = CandidateLayout(2, 1, mask).allowed(5, None, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn("..x.. ..xx. ..x.x"))
    assert torch.equal(allowed[1, 0], drawn("..x.. ...x. ....x"))
    assert torch.equal(allowed[2, 0], drawn("xxx.. xxxx. xxx.x"))


def test_a_mask_longer_than_the_visible_keys_is_read_from_its_end():
    """Sliding layers show fewer keys than there are tokens."""
    mask = torch.tensor([[0, 0, 0, 1, 1]]).bool()
    allowed = CandidateLayout(1, 0, mask).allowed(4, 4, 1, CPU)
    assert torch.equal(allowed[0, 0], drawn(".xxx"))


def test_grouped_queries_repeat_the_rows():
    layout = CandidateLayout(2)
    one, three = layout.allowed(4, None, 1, CPU), layout.allowed(4, None, 3, CPU)
    assert torch.equal(three, one.repeat(1, 1, 3, 1))
    assert layout.allowed(4, None, 3, CPU) is three  # built once


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_attend(groups, has_sinks, softcap):
    """Packed groups, soft caps and sinks, against the formula head by head in fp64."""
    batch, kv_heads, queries, keys, size, value_size = 2, 2, 3, 7, 8, 5
    heads = kv_heads * groups
    query = torch.randn(batch, heads, queries, size)
    key = torch.randn(batch, kv_heads, keys, size)
    value = torch.randn(batch, kv_heads, keys, value_size)
    allowed = CandidateLayout(2, 1, torch.tensor([[1] * 5, [0, 0, 1, 1, 1]]).bool()).allowed(
        keys, None, groups, CPU
    )
    sinks = torch.randn(heads) if has_sinks else None
    actual = attend(query, key, value, allowed, 0.3, softcap, sinks)
    assert actual.shape == (batch, queries, heads, value_size) and actual.is_contiguous()
    for h in range(heads):
        scores = 0.3 * query[:, h].double() @ key[:, h // groups].double().transpose(1, 2)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~allowed[:, 0, :queries], -torch.inf)
        if sinks is not None:
            extra = sinks[h].double().expand(batch, queries, 1)
            weights = torch.cat([scores, extra], dim=-1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        expected = weights @ value[:, h // groups].double()
        torch.testing.assert_close(actual[:, :, h].double(), expected, atol=1e-6, rtol=1e-5)


# ---- the user's own implementation --------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_users_own_attention_runs_everywhere_else(implementation):
    """While a candidate forward runs, also another thread's ordinary forwards; afterwards all."""
    model = build_model("gemma3")
    model.set_attn_implementation(implementation)
    ids, mask = prompts(True)
    expected = model(input_ids=ids, attention_mask=mask).logits
    results = []
    configs = attention_configs(model)
    with candidate_attention(configs, CandidateLayout(1)):
        assert {c._attn_implementation for c in configs} == {ATTENTION_NAME}
        thread = threading.Thread(
            target=lambda: results.append(model(input_ids=ids, attention_mask=mask).logits)
        )
        thread.start()
        thread.join()
        with candidate_attention(configs, CandidateLayout(2)):
            pass
        assert {c._attn_implementation for c in configs} == {ATTENTION_NAME}
    assert torch.equal(results[0], expected)
    assert {c._attn_implementation for c in configs} == {implementation}
    with pytest.raises(KeyboardInterrupt), candidate_attention(configs, CandidateLayout(1)):
        raise KeyboardInterrupt
    assert {c._attn_implementation for c in configs} == {implementation}
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_whatever_attention_the_user_has_the_tokens_are_the_same(implementation):
    model = build_model("mistral_window")
    model.set_attn_implementation(implementation)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
    output = way_in("generate", model, config, make_selector(model), seed=3)(
        input_ids=prompts(True).ids,
        attention_mask=prompts(True).mask,
        max_new_tokens=8,
        return_dict_in_generate=True,
    )
    assert output.s2t.step_mode == "tree"
    assert_equals_reference(
        output.sequences,
        model,
        prompts(True),
        config=config,
        selector=make_selector(model),
        new_tokens=8,
        seed=3,
    )


def test_a_position_bias_is_refused():
    from s2t_ext.hf.attention.candidate_attention import _active, _candidate_attention

    _active.layout = CandidateLayout(1)
    try:
        with pytest.raises(NotImplementedError) as error:
            _candidate_attention(None, *[torch.zeros(1, 1, 1, 1)] * 3, None, position_bias=1)
    finally:
        _active.layout = None
    assert str(error.value) == "candidate attention: position_bias must be None, got a tensor"
