"""`use_cache=False`: every forward takes the whole sequences, as in transformers, and so do the
candidates.
"""

import pytest
import torch
from architectures import ARCHITECTURES, EOS, PAD
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
from tiny_teachers import teacher_model
from transformers import DynamicCache

import s2t_ext
from s2t_ext import S2TConfig
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT

NEVER = S2TConfig(trigger="never")
MIXED = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)


def arguments(new_tokens=6, padded=True, **others) -> dict:
    inputs = prompts(padded)
    return dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=[EOS],
        pad_token_id=PAD,
        use_cache=False,
        return_dict_in_generate=True,
        **others,
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_a_choice_it_is_what_transformers_does(name):
    model = tiny_model(name)
    expected = model.generate(**arguments(output_logits=True))
    for config in (NEVER, IDLE):
        selector = None if config is NEVER else make_selector(model)
        output = way_in("generate", model, config, selector)(**arguments(output_logits=True))
        assert torch.equal(output.sequences, expected.sequences)
        assert torch.equal(torch.stack(output.logits), torch.stack(expected.logits))
        assert CACHE_ARGUMENT not in output and CACHE_ARGUMENT not in expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_choices_equal_the_reference(name):
    model = tiny_model(name)
    selector = make_selector(model)
    output = way_in("generate", model, MIXED, selector, seed=3)(**arguments())
    assert output.s2t.triggers and CACHE_ARGUMENT not in output
    assert (output.s2t.step_mode, output.s2t.step_reason) == ("expand", "use_cache=False")
    assert_equals_reference(
        output.sequences,
        model,
        prompts(True),
        config=MIXED,
        selector=selector,
        new_tokens=6,
        seed=3,
    )


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_three_ways_in_agree(way):
    model = tiny_model("llama")
    cached = way_in(way, model, ALWAYS, make_selector(model))(**arguments() | {"use_cache": True})
    output = way_in(way, model, ALWAYS, make_selector(model))(**arguments())
    assert torch.equal(output.sequences, cached.sequences)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_the_base_model_proposes(name):
    model = add_adapter(build_model(name)).get_base_model()
    config, selector = S2TConfig(**vars(MIXED) | {"proposer": "base"}), make_selector(model)
    output = way_in("generate", model, config, selector, seed=3)(**arguments())
    assert_equals_reference(
        output.sequences,
        model,
        prompts(True),
        config=config,
        selector=selector,
        new_tokens=6,
        seed=3,
    )


@pytest.mark.parametrize("options", [dict(trigger="kl", threshold=0.0), dict(trigger="always")])
def test_a_teacher_chooses(options):
    model, teacher = tiny_model("llama"), s2t_ext.Teacher.from_model(teacher_model())
    config = S2TConfig(k=4, select="teacher", warmup_steps=0, **options)
    cached = arguments() | {"use_cache": True}
    expected = way_in("generate", model, config, teacher=teacher)(**cached)
    output = way_in("generate", model, config, teacher=teacher)(**arguments())
    assert output.s2t.triggers and torch.equal(output.sequences, expected.sequences)


def test_the_record_counts_what_is_computed():
    model = tiny_model("llama")
    length = arguments(padded=False)["input_ids"].shape[1]
    output = way_in("generate", model, NEVER)(**arguments(2, padded=False, min_new_tokens=2))
    assert output.s2t.tokens_through_model == 2 * (length + length + 1)
    # A choice runs 2 x 4 sequences, and gives the logits of the next step too.
    chosen = way_in("generate", model, ALWAYS, make_selector(model))(**arguments(1, padded=False))
    assert chosen.s2t.tokens_through_model == 2 * length + 8 * (length + 1)
    assert chosen.s2t.forward_passes == 2


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize(
    ("others", "config", "message"),
    [
        (
            {},
            S2TConfig(k=4, trigger="always", warmup_steps=0, step="tree"),
            "generate: step must be 'auto' or 'expand' with use_cache=False, got 'tree'",
        ),
        (
            {CACHE_ARGUMENT: DynamicCache()},
            ALWAYS,
            f"generate: {CACHE_ARGUMENT} must be None where choices are made (the forward pass of "
            "the candidates does not carry it: set trigger='never'), got DynamicCache",
        ),
    ],
    ids=["step", "cache"],
)
def test_refusals(way, others, config, message):
    model = tiny_model("llama")
    with pytest.raises(ValueError) as error:
        way_in(way, model, config, make_selector(model))(**arguments(**others))
    assert str(error.value) == message
