"""A cache that looks stock behaves stock: others write its keys, and go on with it elsewhere."""

import copy
from dataclasses import replace

import pytest
import torch
import transformers as hf
from architectures import ARCHITECTURES, PAD
from models import (
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)

from s2t_ext import S2TConfig
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.candidate_cache import CandidateLayer

ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
# A choice among one candidate is no other text, but takes the way of a choice.
ONE = S2TConfig(k=1, trigger="always", warmup_steps=0)


def test_assigned_keys_and_values_are_what_the_next_forward_sees():
    layer, stock = CandidateLayer(), hf.DynamicCache().layer_class_to_replicate()
    states = torch.randn(2, 2, 6, 4)
    for each in (layer, stock):
        each.update(states, states + 1)
        each.keys, each.values = each.keys[:, :, ::2], each.values[:, :, ::2]
    more = torch.randn(2, 2, 1, 4)
    for actual, expected in zip(layer.update(more, more), stock.update(more, more), strict=True):
        assert torch.equal(actual, expected)
    assert layer.get_seq_length() == stock.get_seq_length() == 4


@pytest.mark.parametrize(
    "config",
    [S2TConfig(trigger="never"), S2TConfig(trigger="entropy", threshold=1e3), ONE],
    ids=["never", "out of reach", "one candidate"],
)
def test_a_hook_that_drops_cached_keys(config):
    """As compression of the prompt does, by a hook of its own on every attention."""
    model = build_model("llama", seed=7)
    options = dict(
        input_ids=torch.randint(3, 97, (1, 24), generator=torch.Generator().manual_seed(2)),
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_logits=True,
        **ENDLESS,
    )
    plain = model.generate(**options)

    def press(module, arguments, named, output):
        layer = named[CACHE_ARGUMENT].layers[module.layer_idx]
        if layer.get_seq_length() == named["hidden_states"].shape[1] > 8:
            layer.keys = layer.keys[:, :, 12:].contiguous()
            layer.values = layer.values[:, :, 12:].contiguous()

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(press, with_kwargs=True)
    expected = model.generate(**options)
    assert not torch.allclose(expected.logits[1], plain.logits[1], atol=1e-2)
    generate = way_in("generate", model, config, make_selector(tiny_model("llama")))
    output = generate(**options)
    assert torch.equal(output.sequences, expected.sequences)
    for actual, should in zip(output.logits, expected.logits, strict=True):
        torch.testing.assert_close(actual, should, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("step", ["auto", "expand"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_cache_that_its_owner_shortens(padded, step):
    """Without a hook that would tell of it: a padded mask is then longer than the keys, and a tree
    step has to read it as transformers does.
    """
    model, inputs = build_model("llama", seed=7), prompts(padded)

    class Shortens(hf.LogitsProcessor):
        def __init__(self, cache):
            self.layers = list(cache.layers)

        def __call__(self, input_ids, scores):
            while self.layers:
                layer = self.layers.pop()
                layer.keys, layer.values = layer.keys[:, :, 3:], layer.values[:, :, 3:]
            return scores

    def run(generate, shortens=True):
        cache = hf.DynamicCache(config=model.config)
        return generate(
            input_ids=inputs.ids,
            attention_mask=inputs.mask,
            max_new_tokens=12,
            logits_processor=hf.LogitsProcessorList([Shortens(cache)] if shortens else []),
            **{CACHE_ARGUMENT: cache},
            **ENDLESS,
        )

    expected = run(model.generate)
    assert not torch.equal(expected, run(model.generate, shortens=False))
    one = S2TConfig(k=1, trigger="always", warmup_steps=0, step=step)
    assert torch.equal(run(way_in("generate", model, one, make_selector(model))), expected)


@pytest.mark.parametrize("step", ["auto", "expand"])
@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma3", "falcon_h1"])
def test_a_cache_of_inference_mode_goes_on_outside_of_it(name, step):
    model, selector, inputs = tiny_model(name), make_selector(tiny_model(name)), prompts(False)
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step=step)
    generate = way_in("generate", model, config, selector)
    with torch.inference_mode():
        output = generate(
            input_ids=inputs.ids, max_new_tokens=5, return_dict_in_generate=True, **ENDLESS
        )
    ids = torch.cat([output.sequences, inputs.ids[:, :2]], dim=1).clone()
    expected = model.generate(ids, max_new_tokens=4, **ENDLESS)
    cache = {CACHE_ARGUMENT: output[CACHE_ARGUMENT]}
    if not _plain_continues(model, inputs):
        pytest.skip("transformers' own cache of inference mode does not go on either")
    assert torch.equal(model.generate(ids, max_new_tokens=4, **ENDLESS, **cache), expected)


def _plain_continues(model, inputs) -> bool:
    """Whether transformers' own cache, made in inference mode, can be written outside of it."""
    with torch.inference_mode():
        output = model.generate(
            inputs.ids, max_new_tokens=5, return_dict_in_generate=True, **ENDLESS
        )
    ids = torch.cat([output.sequences, inputs.ids[:, :2]], dim=1).clone()
    cache = {CACHE_ARGUMENT: output[CACHE_ARGUMENT]}
    try:
        model.generate(ids, max_new_tokens=4, **ENDLESS, **cache)
    except RuntimeError:
        return False
    return True


def model_of_images():
    """A tiny Gemma 3 of text and images."""
    text = ARCHITECTURES["gemma3"].build().to_dict()
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = hf.Gemma3Config(
        text_config=text,
        vision_config=dict(**vision, image_size=28, patch_size=14),
        mm_tokens_per_image=4,
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return hf.Gemma3ForConditionalGeneration(config).eval()


def test_an_argument_of_the_prompt_alone_is_no_obstacle():
    """What a multimodal model's processor adds to a text, and the model drops after the prompt."""
    model, ids = model_of_images(), prompts(False).ids
    generate = way_in("generate", model, ALWAYS, make_selector(tiny_model("gemma3")))
    options = dict(input_ids=ids, max_new_tokens=5, **ENDLESS)
    assert torch.equal(
        generate(**options, token_type_ids=torch.zeros_like(ids)), generate(**options)
    )


def test_nor_where_a_mask_is_made_of_it():
    """As for static caches: of the rows of the candidates."""
    model, ids = model_of_images(), prompts(False).ids
    generate = way_in("generate", model, ALWAYS, make_selector(tiny_model("gemma3")))
    options = dict(input_ids=ids, max_new_tokens=5, token_type_ids=torch.zeros_like(ids), **ENDLESS)
    expected = generate(**options)
    assert torch.equal(generate(**options, cache_implementation="static"), expected)


def test_without_a_cache_every_forward_needs_the_images():
    """Releases of transformers that encode the images first name what came of them."""
    model, ids = model_of_images(), prompts(False).ids
    images = torch.zeros(1, 3, 28, 28)
    generate = way_in("generate", model, ALWAYS, make_selector(tiny_model("gemma3")))
    with pytest.raises(ValueError, match="(pixel_values|mm_encoder_outputs) must be None where"):
        generate(input_ids=ids, pixel_values=images, max_new_tokens=3, use_cache=False, **ENDLESS)


@pytest.mark.parametrize("use_cache", [True, False])
def test_token_types_that_every_forward_needs(use_cache):
    """GPT-2 adds an embedding of them, also after the prompt: the same as with moved positions."""
    model, inputs = tiny_model("gpt2"), prompts(True)
    selector = make_selector(model)
    given = dict(attention_mask=inputs.mask, max_new_tokens=6, use_cache=use_cache, **ENDLESS)
    given.update(input_ids=inputs.ids, token_type_ids=torch.full_like(inputs.ids, 5))
    output = way_in("generate", model, ALWAYS, selector)(**given, return_dict_in_generate=True)
    reasons = {True: "token_type_ids of every token", False: "use_cache=False"}
    assert output.s2t.step_mode == "expand" and output.s2t.step_reason == reasons[use_cache]
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.transformer.wpe.weight += moved.transformer.wte.weight[5]
    assert_equals_reference(
        output.sequences, moved, inputs, config=ALWAYS, selector=selector, new_tokens=6, eos=()
    )
    with pytest.raises(ValueError, match="step must be 'auto' or 'expand' with "):
        way_in("generate", model, replace(ALWAYS, step="tree"), selector)(**given)
