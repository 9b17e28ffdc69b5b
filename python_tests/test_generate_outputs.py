"""What goes into and comes out of a generation besides tokens: streamers, scores, embeddings,
caches, adapters, dtypes, and what a patched model is to everybody else.
"""

import copy
import pickle
import queue
import threading

import pytest
import torch
import transformers
from models import (
    BOS,
    EOS,
    PAD,
    PROMPT,
    VOCAB,
    WAYS_IN,
    Prompts,
    add_adapter,
    build_model,
    make_selector,
    make_tokenizer,
    one_thread,  # noqa: F401
    prompts,
    tiny_model,
    way_in,
)
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    StaticCache,
    TextIteratorStreamer,
    TextStreamer,
)

import s2t_ext
from s2t_ext import S2TConfig

IDLE = S2TConfig(trigger="entropy", threshold=1e3)
HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
# Every row runs to the end.
ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)


# ---- streamers -----------------------------------------------------------------------------------


class Collects(transformers.generation.streamers.BaseStreamer):
    def __init__(self):
        self.pieces, self.ended = [], 0

    def put(self, value):
        self.pieces.append(value.clone())

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("config", [IDLE, ALWAYS], ids=["idle", "always"])
@pytest.mark.parametrize("way", WAYS_IN)
def test_streamer(way, config):
    """Gets the prompt once, then every token once it is decided, then the end, once."""
    model, inputs = tiny_model("llama"), prompts(True)
    streamer = Collects()
    generate = way_in(way, model, config, make_selector(model))
    output = generate(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=5, streamer=streamer
    )
    assert streamer.ended == 1
    assert torch.equal(streamer.pieces[0], inputs.ids)
    assert torch.equal(torch.stack(streamer.pieces[1:], dim=1), output[:, PROMPT:])


@pytest.mark.parametrize("where", ["decoding_method", "both"])
def test_streamer_of_the_decoding_method(where):
    model, inputs = tiny_model("llama"), prompts(False)
    streamer = Collects()
    method = s2t_ext.decoding_method(ALWAYS, make_selector(model), streamer=streamer)
    options = {"streamer": streamer} if where == "both" else {}
    output = model.generate(inputs.ids, custom_generate=method, max_new_tokens=4, **options)
    assert torch.equal(streamer.pieces[0], inputs.ids) and len(streamer.pieces) == 5
    assert torch.equal(torch.stack(streamer.pieces[1:], dim=1), output[:, PROMPT:])


@pytest.mark.parametrize("way", WAYS_IN)
def test_text_streamers(way, capsys):
    """To the terminal, and to a reader in another thread."""
    model, tokenizer, ids = tiny_model("llama"), make_tokenizer(), prompts(False).ids[:1]
    generate = way_in(way, model, ALWAYS, make_selector(model))
    output = generate(input_ids=ids, max_new_tokens=8, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out == tokenizer.decode(output[0]) + "\n"
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(
        target=generate, kwargs=dict(input_ids=ids, max_new_tokens=8, streamer=streamer)
    )
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(output[0, PROMPT:])
    with pytest.raises(queue.Empty):
        streamer.text_queue.get_nowait()


# ---- scores and logits ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba2"])
@pytest.mark.parametrize("way", WAYS_IN)
def test_scores_and_logits_are_transformers_own(way, name):
    model, inputs = tiny_model(name), prompts(True)
    arguments = dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=5,
        do_sample=False,
        repetition_penalty=1.3,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    expected = model.generate(**arguments)
    output = way_in(way, model, IDLE, make_selector(model))(**arguments)
    assert isinstance(output, transformers.generation.GenerateDecoderOnlyOutput)
    assert torch.equal(output.sequences, expected.sequences)
    for name in ("scores", "logits"):
        ours, theirs = getattr(output, name), getattr(expected, name)
        assert isinstance(ours, tuple) and len(ours) == len(theirs) == 5
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert output.attentions is None and output.hidden_states is None


@pytest.mark.parametrize("step", ["tree", "expand"])
def test_scores_and_logits_after_choices(step):
    """Of the states the chosen tokens lead to."""
    model, ids = tiny_model("llama"), prompts(False).ids
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    output = way_in("generate", model, config, make_selector(model), seed=3)(
        input_ids=ids,
        max_new_tokens=6,
        suppress_tokens=[7],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **ENDLESS,
    )
    assert output.s2t.changed_tokens > 0
    with torch.no_grad():
        logits = model(input_ids=output.sequences).logits[:, PROMPT - 1 : -1]
    torch.testing.assert_close(torch.stack(output.logits, dim=1), logits, atol=1e-4, rtol=0)
    logits[..., 7] = -torch.inf
    torch.testing.assert_close(torch.stack(output.scores, dim=1), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("warper", [dict(top_k=5), dict(typical_p=0.5), dict(temperature=0.5)])
def test_scores_of_a_sample_are_after_the_warpers(warper):
    model, inputs = tiny_model("llama"), prompts(False)
    options = dict(do_sample=True, top_k=0, **{k: v for k, v in warper.items() if k != "top_k"})
    options.update(warper)
    arguments = dict(
        input_ids=inputs.ids,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    expected = model.generate(**arguments).scores[0]
    actual = way_in("generate", model, IDLE, make_selector(model))(**arguments).scores[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# ---- embeddings and caches -----------------------------------------------------------------------


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
    assert first.past_key_values.get_seq_length() == PROMPT + 3
    second = generate(
        **longer(inputs, first.sequences),
        past_key_values=first.past_key_values,
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
            past_key_values=second.past_key_values,
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
        ).past_key_values
        assert cache.get_seq_length() == 4
    for way in WAYS_IN:
        given = copy.deepcopy(cache)
        generate = way_in(way, model, ALWAYS, selector)
        first = generate(input_ids=inputs.ids, past_key_values=given, max_new_tokens=4, **arguments)
        assert given.get_seq_length() == PROMPT + 3
        second = generate(
            **longer(inputs, first), past_key_values=given, max_new_tokens=2, **ENDLESS
        )
        assert torch.equal(second, plain)


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
            past_key_values=cache,
        )
    output = generate(
        input_ids=inputs.ids[:, 5:],
        attention_mask=inputs.mask,
        past_key_values=cache,
        max_new_tokens=5,
        **ENDLESS,
    )
    assert torch.equal(output[:, PROMPT - 5 :], plain[:, PROMPT:])


def test_a_static_cache_too_small_for_the_last_choice_is_refused():
    """It is large enough for transformers, which never takes the last token through the model."""
    model, inputs = tiny_model("llama"), prompts(False)
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + 3)
    arguments = dict(input_ids=inputs.ids, past_key_values=cache, max_new_tokens=4, **ENDLESS)
    with pytest.raises(ValueError) as error:
        way_in("generate", model, ALWAYS, make_selector(model))(**arguments)
    assert str(error.value) == (
        "generate: past_key_values must have room for 13 tokens (a choice in the last step looks "
        "one token ahead), got a StaticCache for 12"
    )
    never = way_in("generate", model, S2TConfig(trigger="never"))(**arguments)
    assert never.shape[1] == PROMPT + 4


def test_a_tree_needs_a_cache_that_holds_alternatives():
    model, inputs = tiny_model("mistral_window"), prompts(False)
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, make_selector(model))(
            input_ids=inputs.ids,
            past_key_values=DynamicCache(config=model.config),
            max_new_tokens=4,
        )
    assert str(error.value) == (
        "generate: past_key_values must be a cache whose last entries can be replaced for "
        "step='tree', got DynamicCache"
    )


def test_a_quantized_cache_expands():
    """FP8 needs no other package. Ordinary and candidate steps read the same rounded keys."""
    model, inputs = tiny_model("llama"), prompts(True)
    arguments = dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=6,
        do_sample=False,
        cache_implementation="quantized",
        cache_config=dict(backend="fp8"),
    )
    selector = make_selector(model)
    expected = model.generate(**arguments)
    assert torch.equal(way_in("generate", model, IDLE, selector)(**arguments), expected)
    certain = make_selector(model, prior_weight=1e6)  # always the favourite, by a choice
    output = way_in("generate", model, ALWAYS, certain)(**arguments, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected)
    assert output.s2t.step_mode == "expand" and output.s2t.triggers > 0
    assert output.s2t.step_reason == "the given QuantizedCache cannot hold alternatives"


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
