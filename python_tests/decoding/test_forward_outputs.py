"""`output_attentions` and `output_hidden_states`: of every step whose token was taken from a
forward, those of the committed token where a choice was made.
"""

import pytest
import torch
from architectures import ARCHITECTURES, EOS, PAD, PROMPT
from arguments import ALWAYS, IDLE
from models import (
    WAYS_IN,
    add_adapter,
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)

from s2t_ext import S2TConfig

NEVER = S2TConfig(trigger="never")
MIXED = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
NAMES = ("attentions", "hidden_states")


def eager_model(name):
    model = build_model(name)
    model.set_attn_implementation("eager")
    return model


def arguments(name="llama", **others) -> dict:
    inputs = prompts(True)
    return dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=[EOS],
        pad_token_id=PAD,
        output_hidden_states=True,
        output_attentions=name != "mamba2",  # it has none
        **{"return_dict_in_generate": True, **others},
    )


def assert_same(actual, expected) -> None:
    """The same tensors in the same nested tuples."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    elif expected is None:
        assert actual is None
    else:
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_a_choice_they_are_transformers_own(name, use_cache):
    model = eager_model(name)
    given = arguments(name, use_cache=use_cache)
    expected = model.generate(**given)
    for config in (NEVER, IDLE):
        selector = None if config is NEVER else make_selector(model)
        output = way_in("generate", model, config, selector)(**given)
        assert torch.equal(output.sequences, expected.sequences)
        for outputs in NAMES:
            assert_same(output.get(outputs), expected.get(outputs))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_of_the_committed_token_where_a_choice_was_made(name):
    model, inputs = eager_model(name), prompts(True)
    selector = make_selector(model)
    output = way_in("generate", model, MIXED, selector, seed=3)(**arguments(name))
    new_tokens = output.sequences.shape[1] - PROMPT
    assert 0 < output.s2t.triggers < output.s2t.steps and output.s2t.step_mode == "expand"
    assert_equals_reference(
        output.sequences, model, inputs, config=MIXED, selector=selector, new_tokens=5, seed=3
    )
    for outputs in NAMES:
        found = output.get(outputs)
        if found is None:
            assert (name, outputs) == ("mamba2", "attentions")
            continue
        assert len(found) == new_tokens
        for step, layers in enumerate(found):
            for ours, whole in zip(
                layers,
                recomputed(model, name, output.sequences, PROMPT + step)[outputs],
                strict=True,
            ):
                if ours is None and whole is None:  # a layer without attention
                    continue
                # Of the last query; a window's cache has dropped keys that the mask hides anyway.
                whole = whole[..., -1, -ours.shape[-1] :]
                torch.testing.assert_close(ours[..., -1, :], whole, atol=1e-3, rtol=1e-3)


def recomputed(model, name, sequences, length):
    """Attentions and hidden states of the first `length` tokens, from scratch."""
    mask = torch.cat([prompts(True).mask, torch.ones_like(sequences[:, PROMPT:])], dim=1)
    mask = mask[:, :length]
    takes_positions = name != "mamba2" and name != "bloom"
    positions = dict(position_ids=(mask.cumsum(-1) - 1).clamp(min=0)) if takes_positions else {}
    with torch.no_grad():
        return model(
            input_ids=sequences[:, :length],
            attention_mask=mask,
            use_cache=False,
            output_hidden_states=True,
            output_attentions=name != "mamba2",
            **positions,
        )


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_three_ways_in_agree(way):
    model = eager_model("llama")
    selector = make_selector(model)
    expected = way_in("generate", model, ALWAYS, selector)(**arguments())
    output = way_in(way, model, ALWAYS, selector)(**arguments())
    for outputs in NAMES:
        assert_same(output[outputs], expected[outputs])


def test_a_base_model_that_proposes_gives_its_own():
    model = add_adapter(eager_model("llama")).get_base_model()
    config, selector = S2TConfig(**vars(ALWAYS) | {"proposer": "base"}), make_selector(model)
    output = way_in("generate", model, config, selector)(**arguments())
    plain = build_model("llama")
    plain.set_attn_implementation("eager")
    last = recomputed(plain, "llama", output.sequences, output.sequences.shape[1] - 1)
    for outputs in NAMES:
        for ours, whole in zip(output[outputs][-1], last[outputs], strict=True):
            torch.testing.assert_close(ours[..., -1, :], whole[..., -1, :], atol=1e-3, rtol=1e-3)


def test_not_kept_where_no_dictionary_is_returned():
    """Then nothing asks for them, and the tree step is free to be taken."""
    model = tiny_model("llama")
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step="tree")
    output = way_in("generate", model, config, make_selector(model))(
        **arguments(return_dict_in_generate=False)
    )
    assert torch.equal(output, way_in("generate", model, ALWAYS, make_selector(model))(
        **arguments(return_dict_in_generate=False, use_cache=False)
    ))  # fmt: skip


def test_the_tree_step_is_refused():
    model = tiny_model("llama")
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, make_selector(model))(**arguments())
    assert str(error.value) == (
        "generate: step must be 'auto' or 'expand' with output_attentions=True, got 'tree'"
    )
