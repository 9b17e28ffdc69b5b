"""The candidate forward on static caches: the tree's tokens, compiled once for all steps."""

import pytest
import torch
from architectures import PAD, PROMPT
from models import (
    Prompts,
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache, StaticCache
from transformers.cache_utils import Cache, StaticLayer, StaticSlidingWindowLayer

from s2t_ext import S2TConfig
from s2t_ext.decoding.steps import self_test
from s2t_ext.decoding.steps.static_tree_step import is_static
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.cache_layers import DummyLayer

HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)


def generated(model, config, padded=True, new_tokens=12, **options):
    inputs = prompts(padded)
    return way_in("generate", model, config, make_selector(model), seed=3)(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=new_tokens,
        return_dict_in_generate=True,
        **{**ENDLESS, **options},
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_equals_the_reference(name, attention, padded, monkeypatch):
    """Token for token the reference that recomputes every candidate, in as many forward passes and
    tokens as a growing cache takes that leaves no slots out, which static shapes forbid.
    """
    monkeypatch.setattr(self_test, "RAGGED_DEVICES", ())
    model = tiny_model(name)
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    try:
        growing = generated(model, HALF, padded)
        output = generated(model, HALF, padded, cache_implementation="static")
        assert output.s2t.step_mode == "tree"
        assert_equals_reference(
            output.sequences,
            model,
            prompts(padded),
            config=HALF,
            selector=make_selector(model),
            new_tokens=12,
            seed=3,
            eos=(),
        )
    finally:
        model.set_attn_implementation(before)
    assert output.s2t.forward_passes == growing.s2t.forward_passes
    assert output.s2t.tokens_through_model == growing.s2t.tokens_through_model


def test_a_step_writes_into_the_same_buffers():
    """What a replayed graph needs: the addresses it was captured with."""
    model = tiny_model("llama")
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + 12 + 3)
    addresses = []
    inputs = prompts(True)
    way_in(
        "generate",
        model,
        ALWAYS,
        make_selector(model),
        on_step=lambda event: addresses.append([x.keys.data_ptr() for x in cache.layers]),
    )(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        **{CACHE_ARGUMENT: cache},
        max_new_tokens=12,
        **ENDLESS,
    )
    assert len(addresses) == 12 and all(a == addresses[0] for a in addresses)


def test_a_cache_without_room_for_all_candidates_expands_at_its_end():
    model = tiny_model("llama")
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + 12)
    output = generated(model, ALWAYS, **{CACHE_ARGUMENT: cache})
    assert torch.equal(output.sequences, generated(model, ALWAYS).sequences)
    # The last three choices had room for the winner only: K rows of one token instead.
    assert output.s2t.step_mode == "tree"


@pytest.mark.parametrize("padded", [False, True])
def test_two_graphs_for_all_steps(padded):
    """One for a token, one for K candidates; later steps compile nothing."""
    model = build_model("llama")
    compiled = CompileConfig(backend="eager", mode=None)
    compiled._compile_all_devices = True
    options = dict(cache_implementation="static", compile_config=compiled)
    expected = generated(model, HALF, padded)
    torch._dynamo.reset()
    counters.clear()
    first = generated(model, HALF, padded, new_tokens=6, **options)
    after_six = counters["stats"]["unique_graphs"]
    assert {step for row in first.s2t.rows for step in row.triggered_steps}
    output = generated(model, HALF, padded, **options)
    assert torch.equal(output.sequences, expected.sequences)
    assert output.s2t.step_mode == "tree"
    assert after_six <= counters["stats"]["unique_graphs"] <= after_six + 2  # a longer cache
    again = generated(model, HALF, padded, **options)
    graphs = counters["stats"]["unique_graphs"]
    assert torch.equal(again.sequences, expected.sequences)
    generated(model, HALF, padded, **options)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize(
    ("name", "attention", "rows"),
    [("llama", "sdpa", "one"), ("llama", "sdpa", "padded"), ("qwen2", "eager", "two")],
)
def test_no_graph_after_the_first_of_its_kind(name, attention, rows):
    """`fullgraph` and fixed shapes, as transformers' own tests compile: one graph for a token, one
    for K candidates, each in the step that needs it first; a later step that differs in anything
    that is compiled for, be it a stride, would add one.
    """
    model = build_model(name)
    model.set_attn_implementation(attention)
    inputs = prompts(rows == "padded")
    if rows == "one":
        inputs = Prompts(inputs.ids[:1], inputs.mask[:1])
    shapes, after_step = [], []

    def backend(graph, examples):
        shapes.append({x.shape[-1] for x in examples if x.dtype == torch.int64 and x.dim() == 2})
        return graph.forward

    options = CompileConfig(backend=backend, fullgraph=True, dynamic=False, mode=None)
    options._compile_all_devices = True
    call = way_in(
        "generate",
        model,
        HALF,
        make_selector(model),
        seed=3,
        on_step=lambda event: after_step.append(len(shapes)),
    )
    torch._dynamo.reset()
    for _ in range(2):
        output = call(
            input_ids=inputs.ids,
            attention_mask=inputs.mask,
            max_new_tokens=12,
            return_dict_in_generate=True,
            cache_implementation="static",
            compile_config=options,
            **ENDLESS,
        )
        choices = {step for row in output.s2t.rows for step in row.triggered_steps}
        assert output.s2t.step_mode == "tree" and 2 < len(choices)
        assert_equals_reference(
            output.sequences,
            model,
            inputs,
            config=HALF,
            selector=make_selector(model),
            new_tokens=12,
            seed=3,
            eos=(),
        )
    assert sorted(shapes, key=max) == [{1}, {4}]
    assert after_step[12:] == [2] * 12


@pytest.mark.parametrize(
    ("layers", "static"),
    [
        ([StaticLayer(8), StaticLayer(8)], True),
        ([StaticLayer(8), DummyLayer()], True),
        ([StaticLayer(8), StaticSlidingWindowLayer(8, 4)], False),
        ([DummyLayer()], False),
    ],
)
def test_which_caches_are_static(layers, static):
    assert is_static(Cache(layers=layers)) is static


def test_a_growing_cache_is_not_static():
    assert not is_static(DynamicCache(config=tiny_model("llama").config))
