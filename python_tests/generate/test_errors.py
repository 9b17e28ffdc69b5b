"""Bad input to a generation: a message that says why and what to use instead, and nothing lost.

The operators' own messages are in test_op_errors.py, those of selectors on disk in
test_checkpoint.py, of options in test_config.py.
"""

import pytest
import torch
import transformers
from architectures import PROMPT
from models import (
    WAYS_IN,
    add_adapter,
    build_model,
    make_selector,
    make_tokenizer,
    prompts,
    tiny_model,
    way_in,
)
from transformers import (
    GenerationConfig,
    SynthIDTextWatermarkingConfig,
    TextStreamer,
    WatermarkingConfig,
)

import s2t_ext
from s2t_ext import S2TConfig

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
NEVER = S2TConfig(trigger="never")
MODES = (
    "(Select-to-Think decodes greedily or by sampling; use model.generate for this mode, on a "
    "model that is not patched)"
)
CHOICES = "(the forward pass of the candidates does not carry it: set trigger='never')"
SPECULATION = (
    "generate: assistant_model, prompt_lookup_num_tokens, assistant_early_exit and use_mtp must be "
    f"unset {MODES}, got assisted_generation"
)


def refusal(way, config=ALWAYS, model=None, selector=None, kind=ValueError, **arguments) -> str:
    """The message; a right call then works, so nothing was left behind."""
    model = model or tiny_model("llama")
    selector = selector or make_selector(model)
    arguments = {"input_ids": prompts(False).ids, "max_new_tokens": 3, **arguments}
    with pytest.raises(kind) as error:
        way_in(way, model, config, selector)(**arguments)
    good = way_in(way, model, NEVER)(input_ids=prompts(False).ids, max_new_tokens=3)
    assert good.shape == (2, PROMPT + 3) or kind is not ValueError
    return str(error.value)


# ---- generation modes and options ----------------------------------------------------------------


@pytest.mark.parametrize("way", ["generate", "custom_generate"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_beams=2), f"generate: num_beams must be 1 {MODES}, got beam_search"),
        (
            dict(num_beams=2, do_sample=True),
            f"generate: num_beams must be 1 {MODES}, got beam_sample",
        ),
        (
            dict(num_beams=2, num_beam_groups=2, diversity_penalty=0.5),
            f"generate: num_beam_groups must be 1 {MODES}, got group_beam_search",
        ),
        (
            dict(force_words_ids=[[5]]),
            f"generate: constraints must be None {MODES}, got constrained_beam_search",
        ),
        (
            dict(penalty_alpha=0.6, top_k=4),
            f"generate: penalty_alpha must be None {MODES}, got contrastive_search",
        ),
        (
            dict(dola_layers="high"),
            f"generate: dola_layers must be None {MODES}, got dola_generation",
        ),
        (dict(prompt_lookup_num_tokens=3), SPECULATION),
        (dict(assistant_early_exit=1), SPECULATION),
        (dict(use_mtp=True), SPECULATION),
        (
            dict(assistant_model=object()),
            "generate: assistant_model must be None (Select-to-Think does not speculate), got a "
            "model",
        ),
        (
            dict(use_cache=False),
            "generate: use_cache must be True (s2t_ext.reference.decode is the loop without a "
            "cache), got False",
        ),
    ],
)  # fmt: skip
def test_modes_of_generate(arguments, message, way):
    if arguments.get("assistant_model") is not None:
        arguments = dict(assistant_model=tiny_model("llama"))
    for config in (ALWAYS, NEVER):
        assert refusal(way, config, **arguments) == message


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(synced_gpus=True),
            "generate: synced_gpus must be False (fully sharded models are not supported: gather "
            "the model first), got True",
        ),
        (
            dict(output_attentions=True, return_dict_in_generate=True),
            "generate: output_attentions must be False (run model(sequences, "
            "output_attentions=True) on the result), got True",
        ),
        (
            dict(output_hidden_states=True, return_dict_in_generate=True),
            "generate: output_hidden_states must be False (run model(sequences, "
            "output_hidden_states=True) on the result), got True",
        ),
        (
            dict(guidance_scale=1.5),
            "generate: guidance_scale must be 1 (its processor runs the model itself, once per "
            "step, and would not see the candidates), got 1.5",
        ),
        (
            dict(generation_config=GenerationConfig(cache_implementation="paged")),
            "generate: cache_implementation must not be 'paged' (continuous batching bypasses "
            "custom decoding), got paged",
        ),
        (
            dict(position_ids=torch.arange(PROMPT).expand(3, 2, -1)),
            "generate: position_ids must be [batch, length] (multi-axis rope is not supported), "
            "got 3 dimensions",
        ),
    ],
)
def test_options_of_generate(arguments, message, way):
    assert refusal(way, NEVER, **arguments) == message


def test_modes_of_a_patched_model():
    """What our loop serves and nothing else, as without a patch; unpatched, the model has its own
    modes back.
    """
    one = dict(input_ids=prompts(False).ids[:1])
    for arguments in (
        dict(num_beams=2),
        dict(assistant_model=tiny_model("llama"), **one),
        dict(prompt_lookup_num_tokens=3, **one),
        dict(cache_implementation="paged"),
        dict(token_healing=True),
    ):
        assert refusal("patch", **arguments) == refusal("generate", **arguments)
    model = tiny_model("llama")
    assert model.generate(prompts(False).ids, num_beams=2, max_new_tokens=3).shape == (
        2,
        PROMPT + 3,
    )


def test_what_generate_acts_on_before_it_reaches_us():
    assert refusal("generate", cache_implementation="paged") == (
        "generate: cache_implementation must not be 'paged' (continuous batching bypasses custom "
        "decoding), got 'paged'"
    )
    healing = (
        "generate: token_healing must be False (heal the prompt first: "
        "model.heal_tokens(input_ids, tokenizer)), got True"
    )
    assert refusal("generate", token_healing=True, tokenizer=make_tokenizer()) == healing
    config = GenerationConfig(token_healing=True, max_new_tokens=3)
    assert refusal("generate", generation_config=config) == healing
    assert refusal("generate", custom_generate="somebody/something") == (
        "generate: custom_generate must be None (s2t_ext.generate is itself one), got a value"
    )


@pytest.mark.parametrize("way", WAYS_IN)
def test_transformers_own_refusals_come_through(way):
    assert "model_kwargs` are not used by the model: ['max_new_token']" in refusal(
        way, max_new_token=3
    )
    assert "do not support `num_return_sequences`" in refusal(way, num_return_sequences=2)
    assert refusal(way, streamer=TextStreamer(make_tokenizer())) == (
        "TextStreamer only supports batch size 1"
    )
    assert "`attention_mask` passed to `generate` must be 2D" in refusal(
        way, attention_mask=torch.ones(2, 1, PROMPT, PROMPT)
    )


# ---- choices that could not honour it ------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("step", ["tree", "expand"])
def test_inputs_a_candidate_does_not_carry(step, way):
    """Token types of the prompt: an ordinary step goes on with the last one."""
    model = tiny_model("gpt2")
    types = dict(token_type_ids=torch.ones_like(prompts(False).ids))
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step=step)
    assert refusal(way, config, model, **types) == (
        f"generate: token_type_ids must be None where choices are made {CHOICES}, got Tensor"
    )
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=4, **types)
    assert torch.equal(way_in(way, model, NEVER)(**arguments), model.generate(**arguments))


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize(
    "watermark",
    [WatermarkingConfig(), SynthIDTextWatermarkingConfig(ngram_len=3, keys=[1, 2, 3])],
    ids=["green list", "synthid"],
)
def test_a_watermark_on_samples_with_choices(watermark, way):
    arguments = dict(watermarking_config=watermark, do_sample=True)
    assert refusal(way, **arguments) == (
        "generate: watermarking_config must be None where choices are made while sampling (they "
        "are made before the watermark: decode greedily, or set trigger='never'), got "
        f"{type(watermark).__name__}"
    )
    ids = prompts(False).ids
    assert way_in(way, tiny_model("llama"), NEVER)(
        input_ids=ids, max_new_tokens=3, **arguments
    ).shape


# ---- models, selectors, seeds --------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS_IN)
def test_encoder_decoder_models(way):
    config = transformers.T5Config(
        vocab_size=97, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    with pytest.raises(ValueError) as error:
        way_in(way, model, NEVER)(input_ids=prompts(False).ids, max_new_tokens=3)
    assert str(error.value) == (
        "generate: model must be decoder-only, got the encoder-decoder T5ForConditionalGeneration"
    )


def test_models_that_cannot_generate():
    for model in (tiny_model("llama").model, torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError) as error:
            s2t_ext.generate(model, prompts(False).ids, s2t=NEVER)
        assert str(error.value) == (
            "generate: model must be a causal language model of transformers, got "
            f"{type(model).__name__}"
        )


@pytest.mark.parametrize("way", WAYS_IN)
def test_what_the_options_ask_for_must_be_given(way):
    model, ids = tiny_model("llama"), prompts(False).ids

    def message(config, **options):
        with pytest.raises(ValueError) as error:
            way_in(way, model, config, **options)(input_ids=ids, max_new_tokens=3)
        return str(error.value)

    no_selector = (
        "generate: selector must be given for select='local' (or set trigger='never'), got None"
    )
    assert message(ALWAYS) == no_selector
    assert message(None) == no_selector  # the defaults
    assert message(S2TConfig(trigger="always", select="teacher")) == (
        "generate: teacher must be given for select='teacher', got None"
    )
    assert message(S2TConfig(trigger="always", select="takeover")) == (
        "generate: teacher must be given for select='takeover', got None"
    )
    assert message(S2TConfig(trigger="kl", threshold=1.0), selector=make_selector(model)) == (
        "generate: teacher must be given for trigger='kl', got None"
    )
    assert message(ALWAYS, selector=make_selector(model), teacher=model) == (
        "generate: teacher must be None for select='local' and trigger='always', got "
        "LlamaForCausalLM"
    )
    assert message(S2TConfig(), selector=make_selector(model)) == (
        "generate: threshold must be set for trigger='entropy' (or stored in the selector by "
        "s2t_ext.calibrate), got None"
    )


@pytest.mark.parametrize("way", WAYS_IN)
def test_seeds_for_another_number_of_rows(way):
    model = tiny_model("llama")
    for seed, entries in (([1], 1), ([1, 2, 3], 3), (torch.tensor([1]), 1)):
        with pytest.raises(ValueError) as error:
            way_in(way, model, NEVER, seed=seed)(input_ids=prompts(False).ids, max_new_tokens=3)
        assert str(error.value) == (
            "generate: seed must be an integer or have one entry per row (2), got "
            f"{entries} entries"
        )


def test_kinds_of_seeds():
    """Python's and numpy's integers, lists and tensors of one per row; also negative ones."""
    import numpy

    model, ids = tiny_model("llama"), prompts(False).ids
    outputs = [
        way_in("generate", model, NEVER, seed=seed)(input_ids=ids, max_new_tokens=8, do_sample=True)
        for seed in (-1, numpy.int64(-1), [-1, 0], (-1, 0), torch.tensor([-1, 0]))
    ]
    assert all(torch.equal(output, outputs[0]) for output in outputs)


# ---- exceptions in the caller's own code ---------------------------------------------------------


@pytest.mark.parametrize("way", WAYS_IN)
def test_an_exception_leaves_the_model_as_it_was(way):
    """From a callback in the middle of a generation, with an adapter that is being switched."""
    model = add_adapter(build_model("llama"))
    inner = model.get_base_model()
    implementation, kind = inner.config._attn_implementation, type(inner)
    logits = model(input_ids=prompts(False).ids).logits

    def interrupt(event):
        if event.step == 2:
            raise KeyboardInterrupt

    config = S2TConfig(k=4, trigger="always", warmup_steps=0, proposer="base")
    generate = way_in(way, model, config, make_selector(inner), on_step=interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(input_ids=prompts(False).ids, max_new_tokens=6)
    assert inner.config._attn_implementation == implementation and type(inner) is kind
    assert torch.equal(model(input_ids=prompts(False).ids).logits, logits)
