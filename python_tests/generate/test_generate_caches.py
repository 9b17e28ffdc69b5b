"""Generations that begin with embeddings or a cache: ours, transformers' own, static."""

import copy

import pytest
import torch
from architectures import PAD, PROMPT
from models import WAYS_IN, Prompts, make_selector, prompts, tiny_model, way_in
from transformers import (
    DynamicCache,
    StaticCache,
)

from s2t_ext import S2TConfig
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT

IDLE = S2TConfig(trigger="entropy", threshold=1e3)
HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
# Every row runs to the end.
ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)


@pytest.mark.parametrize("with_ids", [False, True], ids=["alone", "with input_ids"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "bloom"])
def test_inputs_embeds(name, with_ids):
    """The tokens of the prompt's embeddings are those of the prompt."""
    model, inputs = tiny_model(name), prompts(True)
    arguments = dict(
        inputs_embeds=model.get_input_embeddings()(inputs.ids),
        attention_mask=inputs.mask,
        max_new_tokens=6,
        do_sample=False,
        **({"input_ids": inputs.ids} if with_ids else {}),
    )
    selector, shown = make_selector(model), PROMPT if with_ids else 0
    expected = model.generate(**arguments)
    for way in WAYS_IN:
        assert torch.equal(way_in(way, model, IDLE, selector)(**arguments), expected)
    by_embeds = way_in("generate", model, HALF, selector, seed=3)(**arguments)
    by_ids = way_in("generate", model, HALF, selector, seed=3)(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=6, do_sample=False
    )
    assert torch.equal(by_embeds[:, shown:], by_ids[:, PROMPT:])


def longer(inputs: Prompts, sequences: torch.Tensor) -> dict[str, torch.Tensor]:
    grown = torch.ones_like(sequences)
    grown[:, :PROMPT] = inputs.mask
    return dict(input_ids=sequences, attention_mask=grown)


@pytest.mark.parametrize("step", ["auto", "expand"])
@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma3", "falcon_h1", "bloom"])
def test_a_returned_cache_continues(name, step):
    """Two calls with the cache between them are one call, in ours as in transformers' caches."""
    model, inputs = tiny_model(name), prompts(True)
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step=step)
    generate = way_in("generate", model, config, make_selector(model))
    arguments = dict(attention_mask=inputs.mask, return_dict_in_generate=True, **ENDLESS)
    whole = generate(input_ids=inputs.ids, max_new_tokens=7, **arguments)
    first = generate(input_ids=inputs.ids, max_new_tokens=4, **arguments)
    assert first[CACHE_ARGUMENT].get_seq_length() == PROMPT + 3
    second = generate(
        **longer(inputs, first.sequences),
        **{CACHE_ARGUMENT: first[CACHE_ARGUMENT]},
        max_new_tokens=3,
        return_dict_in_generate=True,
        **ENDLESS,
    )
    assert torch.equal(second.sequences, whole.sequences)
    # 3 rows: one prompt token, and K for each of three choices, the last one included.
    assert second.s2t.tokens_through_model == 3 * (1 + 3 * 4)
    # And transformers continues it too.
    assert torch.equal(
        model.generate(
            **longer(inputs, whole.sequences),
            **{CACHE_ARGUMENT: second[CACHE_ARGUMENT]},
            max_new_tokens=2,
            **ENDLESS,
        ),
        model.generate(**longer(inputs, whole.sequences), max_new_tokens=2, **ENDLESS),
    )


@pytest.mark.parametrize("kind", ["dynamic", "dynamic of the model", "static", "transformers' own"])
@pytest.mark.parametrize("name", ["llama", "mistral_window"])
def test_a_given_cache_is_used_and_left_ready(name, kind):
    """Also without a result that returns it: the caller holds it already."""
    model, inputs = tiny_model(name), prompts(True)
    selector, arguments = make_selector(model), dict(attention_mask=inputs.mask, **ENDLESS)
    plain = way_in("generate", model, ALWAYS, selector)(
        input_ids=inputs.ids, max_new_tokens=6, **arguments
    )
    if kind == "dynamic":
        cache = DynamicCache()
    elif kind == "dynamic of the model":
        cache = DynamicCache(config=model.config)
    elif kind == "static":
        cache = StaticCache(config=model.config, max_cache_len=PROMPT + 6)
    else:
        cache = model.generate(
            inputs.ids[:, :4],
            attention_mask=inputs.mask[:, :4],
            max_new_tokens=1,
            return_dict_in_generate=True,
            **ENDLESS,
        )[CACHE_ARGUMENT]
        assert cache.get_seq_length() == 4
    for way in WAYS_IN:
        given = copy.deepcopy(cache)
        generate = way_in(way, model, ALWAYS, selector)
        first = generate(
            input_ids=inputs.ids, **{CACHE_ARGUMENT: given}, max_new_tokens=4, **arguments
        )
        assert given.get_seq_length() == PROMPT + 3
        second = generate(
            **longer(inputs, first), **{CACHE_ARGUMENT: given}, max_new_tokens=2, **ENDLESS
        )
        assert torch.equal(second, plain)


@pytest.mark.parametrize("name", ["llama", "mistral_window"])
def test_a_cache_of_the_users_own_class_stores_every_step(name):
    """Also steps in which only some rows choose, whose tokens are laid side by side."""

    class Counts(DynamicCache):
        updates = 0

        def update(self, *arguments, **options):
            self.updates += 1
            return super().update(*arguments, **options)

    model, inputs = tiny_model(name), prompts(True)
    generate = way_in("generate", model, HALF, make_selector(model), seed=3)
    arguments = dict(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=6, **ENDLESS)
    expected = generate(**arguments, return_dict_in_generate=True)
    triggers = [set(row.triggered_steps) for row in expected.s2t.rows]
    assert triggers[0] ^ triggers[1]
    cache = Counts(config=model.config)
    assert torch.equal(generate(**arguments, **{CACHE_ARGUMENT: cache}), expected.sequences)
    assert cache.updates == model.config.num_hidden_layers * expected.s2t.forward_passes


def test_only_the_new_tokens_of_a_continuation():
    """As in a chat: the mask covers what the cache holds."""
    model, inputs = tiny_model("llama"), prompts(True)
    selector = make_selector(model)
    generate = way_in("generate", model, ALWAYS, selector)
    plain = generate(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=5, **ENDLESS)
    cache = DynamicCache()
    with torch.no_grad():
        model(
            input_ids=inputs.ids[:, :5],
            attention_mask=inputs.mask[:, :5],
            position_ids=(inputs.mask.cumsum(-1) - 1).clamp(min=0)[:, :5],
            **{CACHE_ARGUMENT: cache},
        )
    output = generate(
        input_ids=inputs.ids[:, 5:],
        attention_mask=inputs.mask,
        **{CACHE_ARGUMENT: cache},
        max_new_tokens=5,
        **ENDLESS,
    )
    assert torch.equal(output[:, PROMPT - 5 :], plain[:, PROMPT:])


def test_a_static_cache_too_small_for_the_last_choice_is_refused():
    """It is large enough for transformers, which never takes the last token through the model."""
    model, inputs = tiny_model("llama"), prompts(False)
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + 3)
    arguments = dict(input_ids=inputs.ids, **{CACHE_ARGUMENT: cache}, max_new_tokens=4, **ENDLESS)
    with pytest.raises(ValueError) as error:
        way_in("generate", model, ALWAYS, make_selector(model))(**arguments)
    assert str(error.value) == (
        f"generate: {CACHE_ARGUMENT} must have room for 13 tokens (a choice in the last step looks "
        "one token ahead), got a StaticCache for 12, 1 too few"
    )
    never = way_in("generate", model, S2TConfig(trigger="never"))(**arguments)
    assert never.shape[1] == PROMPT + 4


def test_a_tree_needs_a_cache_that_holds_alternatives():
    model, inputs = tiny_model("mistral_window"), prompts(False)
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, make_selector(model))(
            input_ids=inputs.ids,
            **{CACHE_ARGUMENT: DynamicCache(config=model.config)},
            max_new_tokens=4,
        )
    assert str(error.value) == (
        f"generate: {CACHE_ARGUMENT} must be a cache whose last entries can be replaced for "
        "step='tree', got DynamicCache"
    )


@pytest.mark.parametrize("room", [17, 18, 21])
def test_only_the_new_tokens_after_a_static_cache(room):
    """What the cache already holds counts: 9 cached, 3 new, 6 generated."""
    model, inputs = tiny_model("llama"), prompts(False)
    new = torch.randint(3, 90, (2, 3))
    cache = StaticCache(config=model.config, max_cache_len=room)
    with torch.no_grad():
        model(input_ids=inputs.ids, **{CACHE_ARGUMENT: cache})
    mask = torch.ones(2, PROMPT + 3, dtype=torch.int64)
    generate = way_in("generate", model, ALWAYS, make_selector(model))
    arguments = dict(attention_mask=mask, max_new_tokens=6, **ENDLESS)
    if room < PROMPT + 3 + 6:
        with pytest.raises(ValueError, match=f"for 18 tokens .*, {18 - room} too few$"):
            generate(input_ids=new, **{CACHE_ARGUMENT: cache}, **arguments)
        return
    output = generate(input_ids=new, **{CACHE_ARGUMENT: cache}, **arguments)
    whole = generate(input_ids=torch.cat([inputs.ids, new], dim=1), **arguments)
    assert torch.equal(output, whole[:, PROMPT:])
