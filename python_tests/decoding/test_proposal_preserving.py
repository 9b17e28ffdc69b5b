"""Proposal-preserving selection: the base model proposes and generates, the adapted one scores."""

import pytest
import torch
from architectures import EOS, PAD, PROMPT, RESTARTS_WHOLE, longrope_config
from models import (
    Prompts,
    add_adapter,
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
)

import s2t_ext
from s2t_ext import S2TConfig
from s2t_ext.hf.adapters import AdapterSwitch, adapter_layers
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT

NAMES = ["llama", "gemma3", "mistral_window", "gpt_neox", "falcon_h1", "mamba2", "bloom"]


def run(model, inputs: Prompts, config: S2TConfig, selector, new_tokens=12, **options):
    options = {"seed": 3, **options}
    return s2t_ext.generate(
        model,
        inputs.ids,
        attention_mask=inputs.mask,
        s2t=config,
        selector=selector,
        max_new_tokens=new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        **options,
    )


def base_config(rate: float, **options) -> S2TConfig:
    options = {"k": 4, "warmup_steps": 0, "proposer": "base", "threshold": rate, **options}
    return S2TConfig(**{"trigger": "random", **options})


@pytest.mark.parametrize(
    ("save_head", "rate"), [(False, 0.0), (False, 0.1), (False, 0.5), (False, 1.0), (True, 0.5)]
)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference(name, save_head, rate):
    model = add_adapter(build_model(name), save_head=save_head).get_base_model()
    inputs, selector, config = prompts(True), make_selector(model), base_config(rate)
    output = run(model, inputs, config, selector)
    assert_equals_reference(
        output.sequences, model, inputs, config=config, selector=selector, new_tokens=12, seed=3
    )
    if rate == 1.0:
        assert output.s2t.step_mode == (
            "expand" if name in ("falcon_h1", "mamba2", "bloom") else "tree"
        )
        adapted = run(model, inputs, base_config(rate, proposer="adapted"), selector)
        assert not torch.equal(output.sequences, adapted.sequences)


@pytest.mark.parametrize("step", ["tree", "expand"])
def test_one_scoring_pass_a_choice(step):
    """Untriggered steps cost nothing extra; a triggered one takes the pending tokens and the
    candidates through the adapted model at once (expanded: pending tokens first).
    """
    model = add_adapter(build_model("llama"))
    inputs = prompts(False)
    config = base_config(0.3, step=step)
    output = run(
        model,
        inputs,
        config,
        make_selector(model.get_base_model()),
        eos_token_id=None,
        pad_token_id=PAD,
    )
    steps = sorted({t for row in output.s2t.rows for t in row.triggered_steps})
    assert 0 < len(steps) < 12
    passes = len(steps) if step == "tree" else 2 * len(steps)
    if step == "expand":  # nothing is pending in a choice right after a choice
        passes -= sum(b == a + 1 for a, b in zip(steps, steps[1:], strict=False))
    assert output.s2t.forward_passes == 12 + passes


@pytest.mark.parametrize("name", ["llama", "falcon_h1"])
def test_an_adapter_that_does_nothing_changes_nothing(name):
    """Base and adapted proposals agree then, tree or expanded."""
    model = add_adapter(build_model(name), scale=0.0)
    inputs, selector = prompts(True), make_selector(model.get_base_model())
    outputs = [
        run(model, inputs, base_config(0.5, proposer=proposer), selector)
        for proposer in ("base", "adapted")
    ]
    assert outputs[0].s2t.triggers > 0
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)


def test_without_an_adapter_both_proposers_are_the_model():
    model = build_model("llama")
    inputs, selector = prompts(True), make_selector(model)
    outputs = [
        run(model, inputs, base_config(0.5, proposer=proposer), selector)
        for proposer in ("base", "adapted")
    ]
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)


@pytest.mark.parametrize("config", [base_config(0.0), S2TConfig(trigger="never", proposer="base")])
def test_without_choices_it_is_the_base_model(config):
    """The adapted model would only score, so it plays no part."""
    plain, inputs = build_model("llama"), prompts(True)
    expected = plain.generate(
        inputs.ids, attention_mask=inputs.mask, max_new_tokens=12, do_sample=False
    )
    selector = make_selector(plain)
    adapted = add_adapter(plain)
    output = run(adapted, inputs, config, selector)
    assert torch.equal(output.sequences, expected)
    assert not torch.equal(
        adapted.generate(
            input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=12, do_sample=False
        ),
        expected,
    )


@pytest.mark.parametrize("as_peft", [False, True], ids=["base model", "PeftModel"])
def test_either_model_may_be_given(as_peft):
    """PEFT changes the layers in place, so the inner model has the adapter too."""
    model = add_adapter(build_model("llama"))
    inputs, selector, config = (
        prompts(True),
        make_selector(model.get_base_model()),
        base_config(0.5),
    )
    target = model if as_peft else model.get_base_model()
    output = run(target, inputs, config, selector)
    assert_equals_reference(
        output.sequences,
        model.get_base_model(),
        inputs,
        config=config,
        selector=selector,
        new_tokens=12,
        seed=3,
    )


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises"])
@pytest.mark.parametrize("disabled", [False, True], ids=["enabled", "disabled"])
def test_adapters_are_left_as_they_were(fails, disabled):
    """Also when a callback raises in the middle of a generation."""
    model = add_adapter(build_model("llama"), save_head=True)
    if disabled:
        model.base_model.disable_adapter_layers()
    layers = adapter_layers(model)
    before = [layer.disable_adapters for layer in layers]
    assert len(layers) > 10 and set(before) == {disabled}
    logits = model(input_ids=prompts(False).ids).logits

    def on_step(event):
        if fails and event.step == 5:
            raise KeyboardInterrupt

    selector = make_selector(model.get_base_model())
    if fails:
        with pytest.raises(KeyboardInterrupt):
            run(model, prompts(True), base_config(0.5), selector, on_step=on_step)
    else:
        run(model, prompts(True), base_config(0.5), selector, on_step=on_step)
    assert [layer.disable_adapters for layer in layers] == before
    assert torch.equal(model(input_ids=prompts(False).ids).logits, logits)


@pytest.mark.parametrize("trigger", ["always", "never"])
def test_a_merged_adapter_is_refused(trigger):
    """Its base model is gone, so nothing could propose."""
    model = add_adapter(build_model("llama"))
    selector = make_selector(model.get_base_model())
    model.merge_adapter()
    config = S2TConfig(trigger=trigger, proposer="base")
    with pytest.raises(ValueError) as error:
        run(model, prompts(True), config, selector)
    assert str(error.value) == (
        "generate: adapter must be unmerged for proposer='base', got a merged one: call "
        "unmerge_adapter()"
    )
    model.unmerge_adapter()
    run(model, prompts(True), config, selector, new_tokens=2)


def test_switching_is_refused_without_an_adapter():
    with pytest.raises(ValueError) as error:
        AdapterSwitch(build_model("llama"))
    assert str(error.value) == (
        "generate: model must have an unmerged PEFT adapter for proposer='base', got none"
    )


def test_a_peft_that_switches_differently_is_noticed():
    """The flag written by hand is read back through PEFT's own property."""
    switch = AdapterSwitch(add_adapter(build_model("llama")))
    first = type(switch._layers[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first, "disable_adapters", property(lambda self: False))
        with pytest.raises(RuntimeError) as error, switch.off():
            pass
    assert str(error.value) == (
        "generate: this version of peft switches adapters differently; proposer='base' is "
        "unavailable"
    )


def test_a_prompt_of_embeddings_is_refused():
    """The adapted model could not read it again."""
    model = add_adapter(build_model("llama")).get_base_model()
    embeds = model.get_input_embeddings()(prompts(False).ids)
    with pytest.raises(ValueError, match="input_ids must hold the whole sequence"):
        s2t_ext.generate(
            model,
            inputs_embeds=embeds,
            s2t=base_config(1.0),
            selector=make_selector(model),
            max_new_tokens=3,
        )


def test_a_given_cache_continues():
    """With the whole sequence at hand, a second call goes on where the first stopped."""
    model = add_adapter(build_model("llama")).get_base_model()
    inputs, selector = prompts(False), make_selector(model)
    config = base_config(1.0, trigger="always", threshold=None)
    no_end = dict(eos_token_id=None, pad_token_id=PAD)
    whole = run(model, inputs, config, selector, 8, **no_end)
    first = run(model, inputs, config, selector, 4, **no_end)
    second = run(
        model,
        Prompts(first.sequences, torch.ones_like(first.sequences)),
        config,
        selector,
        4,
        **{CACHE_ARGUMENT: first[CACHE_ARGUMENT]},
        **no_end,
    )
    assert torch.equal(second.sequences, whole.sequences)


@RESTARTS_WHOLE
@pytest.mark.parametrize("step", ["tree", "expand"])
@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_longrope_across_its_switch(rate, step):
    """The base cache restarts when the rope changes, and so must the adapted model's."""
    model = add_adapter(build_model(longrope_config())).get_base_model()
    ids = prompts(False).ids[:1]
    inputs = Prompts(ids, torch.ones_like(ids))
    config, selector = base_config(rate, step=step), make_selector(model)
    output = run(model, inputs, config, selector, 14, seed=2)
    assert output.s2t.triggers > 0
    assert_equals_reference(
        output.sequences, model, inputs, config=config, selector=selector, new_tokens=14, seed=2
    )


def test_eos_and_reserved_ids():
    model = add_adapter(build_model("qwen2"), save_head=True).get_base_model()
    inputs, config = prompts(True), base_config(0.5)
    free = run(model, inputs, config, make_selector(model))
    reserved = sorted({int(t) for t in free.sequences[:, PROMPT:].flatten()} - {PAD, EOS})[:8]
    selector = make_selector(model, reserved_ids=reserved, prior_weight=0.1)
    output = run(model, inputs, config, selector)
    eos = int(output.sequences[0, PROMPT + 4])
    output = run(model, inputs, config, selector, eos_token_id=eos)
    assert output.s2t.rows[0].steps <= 5
    assert_equals_reference(
        output.sequences,
        model,
        inputs,
        config=config,
        selector=selector,
        new_tokens=12,
        seed=3,
        eos=(eos,),
    )
