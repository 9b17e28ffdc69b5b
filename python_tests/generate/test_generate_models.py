"""Adapters, dtypes, batches of every size, and what a patched model is to everybody else."""

import copy
import pickle

import pytest
import torch
import transformers
from architectures import BOS, EOS, PAD, PROMPT, VOCAB
from models import (
    WAYS_IN,
    Collects,
    add_adapter,
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
)

import s2t_ext
from s2t_ext import S2TConfig

IDLE = S2TConfig(trigger="entropy", threshold=1e3)
HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("save_head", [False, True])
@pytest.mark.parametrize("way", WAYS_IN)
def test_peft_models(way, save_head):
    """The adapted model proposes and scores, whichever of the two objects is called."""
    model = add_adapter(build_model("llama"), save_head=save_head)
    inputs, selector = prompts(True), make_selector(model.get_base_model())
    arguments = dict(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=8, do_sample=False
    )
    expected = model.generate(**arguments)
    outputs = [
        way_in(way, m, config, selector, seed=3)(**arguments)
        for m in (model, model.get_base_model())
        for config in (IDLE, HALF)
    ]
    assert torch.equal(outputs[0], expected) and torch.equal(outputs[2], expected)
    assert torch.equal(outputs[1], outputs[3]) and not torch.equal(outputs[1], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(dtype):
    """Tokens without choices are transformers'; the tree and the expanded batch round alike."""
    model = build_model("llama").to(dtype)
    inputs, selector = prompts(True), make_selector(model)
    arguments = dict(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=8, do_sample=False
    )
    expected = model.generate(**arguments)
    assert torch.equal(way_in("generate", model, IDLE, selector)(**arguments), expected)
    certain = make_selector(model, prior_weight=1e6)
    for step in ("tree", "expand"):
        config = S2TConfig(k=4, trigger="always", warmup_steps=0, step=step)
        output = way_in("generate", model, config, certain)(
            **arguments, return_dict_in_generate=True
        )
        assert output.s2t.step_mode == step and output.s2t.triggers > 0
        if dtype == torch.float64:
            assert torch.equal(output.sequences, expected)


def test_num_return_sequences():
    """Copies of a prompt draw for themselves, and are reproduced by their seeds."""
    model, inputs = tiny_model("llama"), prompts(True)
    for way in WAYS_IN:
        generate = way_in(way, model, HALF, make_selector(model), seed=11)
        arguments = dict(
            input_ids=inputs.ids, attention_mask=inputs.mask, do_sample=True, max_new_tokens=6
        )
        output = generate(**arguments, num_return_sequences=4)
        assert output.shape[0] == 12
        assert torch.equal(output[:, :PROMPT], inputs.ids.repeat_interleave(4, dim=0))
        assert len({tuple(row) for row in output[:4].tolist()}) > 1
        assert torch.equal(output, generate(**arguments, num_return_sequences=4))


@pytest.mark.parametrize("way", WAYS_IN)
def test_an_empty_batch_comes_back_empty(way):
    model, streamer = tiny_model("llama"), Collects()
    generate = way_in(way, model, ALWAYS, make_selector(model))
    ids = torch.empty(0, 4, dtype=torch.int64)
    output = generate(input_ids=ids, max_new_tokens=3, streamer=streamer)
    assert output.shape == (0, 4) and streamer.ended == 1
    output = generate(input_ids=ids, max_new_tokens=3, return_dict_in_generate=True)
    assert output.sequences.shape == (0, 4) and output.s2t.steps == 0


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_prompt_without_tokens(way):
    """Refused, except that no prompt at all begins with the bos token, as in transformers."""
    model = tiny_model("llama")
    generate = way_in(way, model, ALWAYS, make_selector(model))
    with pytest.raises(ValueError) as error:
        generate(input_ids=torch.empty(1, 0, dtype=torch.int64), max_new_tokens=3)
    assert str(error.value) == (
        "generate: input_ids must hold at least one token per row (begin with the bos token), got "
        "shape [1, 0]"
    )
    assert generate(max_new_tokens=3)[0, 0] == BOS


def test_a_row_of_padding_disturbs_no_other():
    """A prompt of length zero beside others: its own row is anyone's guess, theirs are exact."""
    model, inputs = tiny_model("llama"), prompts(True)
    mask = inputs.mask.clone()
    mask[2] = 0
    for config in (IDLE, HALF):
        generate = way_in("generate", model, config, make_selector(model), seed=3)
        output = generate(input_ids=inputs.ids, attention_mask=mask, max_new_tokens=6)
        alone = generate(input_ids=inputs.ids[:2], attention_mask=mask[:2], max_new_tokens=6)
        assert torch.equal(output[:2, : alone.shape[1]], alone)


# ---- patched models ------------------------------------------------------------------------------


def test_a_patched_model_is_saved_as_what_it_is(tmp_path):
    model = build_model("llama")
    s2t_ext.patch(model, ALWAYS, make_selector(model))
    model.save_pretrained(tmp_path)
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert isinstance(model, LlamaForCausalLM) and type(model).__name__ == "LlamaForCausalLM"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM
    assert LlamaConfig.from_pretrained(tmp_path).architectures == ["LlamaForCausalLM"]
    ids = prompts(False).ids
    s2t_ext.unpatch(model)
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(loaded.generate(ids, max_new_tokens=4, do_sample=False), expected)


def test_patch_and_unpatch():
    """Patching again replaces the options; unpatching restores the class; both return the model."""
    model = build_model("llama")
    ids, selector = prompts(False).ids, make_selector(model)
    expected = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert s2t_ext.patch(model, ALWAYS, selector) is model
    chosen = model.generate(ids, max_new_tokens=6, do_sample=False)
    assert not torch.equal(chosen, expected)
    assert s2t_ext.patch(model, IDLE, selector) is model
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), expected)
    assert s2t_ext.unpatch(model) is model
    assert type(model) is LlamaForCausalLM and not hasattr(model, "_s2t_options")
    assert s2t_ext.unpatch(model) is model
    assert torch.equal(model.generate(ids, max_new_tokens=6, num_beams=1), expected)
    copied = copy.deepcopy(s2t_ext.patch(model, ALWAYS, selector))
    assert torch.equal(copied.generate(ids, max_new_tokens=6, do_sample=False), chosen)


def test_a_selector_s_own_options_are_the_default():
    model, ids = tiny_model("llama"), prompts(False).ids
    selector = make_selector(model, decoding=ALWAYS)
    explicit = way_in("generate", model, ALWAYS, selector)(input_ids=ids, max_new_tokens=6)
    for way in WAYS_IN:
        assert torch.equal(
            way_in(way, model, None, selector)(input_ids=ids, max_new_tokens=6), explicit
        )


def test_a_model_that_was_decoded_is_left_as_it_was():
    """No attention implementation, hook or attribute of ours stays active."""
    model = build_model("llama")
    before = model.config._attn_implementation, type(model)
    ids = prompts(False).ids
    logits = model(input_ids=ids).logits
    way_in("generate", model, ALWAYS, make_selector(model))(input_ids=ids, max_new_tokens=4)
    assert (model.config._attn_implementation, type(model)) == before
    assert not model.get_output_embeddings()._forward_hooks
    assert torch.equal(model(input_ids=ids).logits, logits)
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(input_ids=ids).logits, logits)


def test_vocabulary_smaller_than_k():
    """Fewer candidates than asked for, never one that is no token."""
    config = tiny_model("llama").config.to_dict() | dict(vocab_size=5)
    model = build_model(LlamaConfig(**config))
    ids = torch.tensor([[3, 4, 3]])
    output = way_in(
        "generate", model, S2TConfig(k=8, trigger="always", warmup_steps=0), make_selector(model)
    )(input_ids=ids, max_new_tokens=6, eos_token_id=None)
    assert output.max() < 5 < VOCAB and output.min() >= 0 and EOS < 5


def test_a_decoder_that_counts_positions_its_own_way():
    """Roberta's begin after the padding id, unless it is told them, as by `generate`."""
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ids = dict(vocab_size=VOCAB, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=BOS)
    model = build_model(RobertaConfig(**sizes, **ids, max_position_embeddings=64, is_decoder=True))
    selector, inputs = make_selector(model), prompts(True)
    arguments = dict(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=8)
    never = way_in("generate", model, S2TConfig(trigger="never"))(**arguments)
    assert torch.equal(never, model.generate(**arguments))
    chosen = way_in("generate", model, HALF, selector, seed=3)(**arguments)
    options = dict(config=HALF, selector=selector, new_tokens=8, seed=3)
    assert_equals_reference(chosen, model, inputs, **options)
