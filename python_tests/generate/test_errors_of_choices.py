"""Choices that could not be honoured, and models, selectors, seeds and callbacks that do not fit:
a message that says why, and nothing lost.
"""

import pytest
import torch
import transformers
from models import WAYS_IN, add_adapter, build_model, make_selector, prompts, tiny_model, way_in
from refusals import ALWAYS, NEVER, refusal
from transformers import SynthIDTextWatermarkingConfig, WatermarkingConfig

import s2t_ext
from s2t_ext import S2TConfig

CHOICES = "(the forward pass of the candidates does not carry it: set trigger='never')"


# ---- choices that could not honour it ------------------------------------------------------------


class Shifted(transformers.LlamaForCausalLM):
    """A model with an argument of its own, which every forward needs."""

    def forward(self, input_ids=None, shift=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = output.logits.roll(0 if shift is None else int(shift), dims=-1)
        return output


class Average(transformers.GenerationMixin):
    """Two models that decode as one; it generates, but is neither a module nor of transformers."""

    def __init__(self, one, two):
        self.one, self.two = one, two

    def __getattr__(self, name):
        return getattr(self.one, name)

    def __call__(self, **inputs):
        output = self.one(**inputs)
        output.logits = (output.logits + self.two(**inputs).logits) / 2
        return output

    def prepare_inputs_for_generation(self, *args, **kwargs):
        return self.one.prepare_inputs_for_generation(*args, **kwargs)


@pytest.mark.parametrize("way", WAYS_IN)
def test_what_only_generates_makes_no_choices(way):
    """A head found in one of the two would score for both."""
    one = tiny_model("llama")
    model = Average(one, build_model("llama", seed=8))
    arguments = dict(input_ids=prompts(False).ids, use_cache=False, max_new_tokens=6)
    with pytest.raises(ValueError) as error:
        way_in(way, model, ALWAYS, make_selector(one))(**arguments)
    assert str(error.value) == (
        "generate: model must be one of transformers' own kind where its candidates are scored "
        "(set trigger='never' or select='teacher'), got Average"
    )
    expected = model.generate(**arguments)
    assert torch.equal(way_in(way, model, NEVER)(**arguments), expected)
    assert not torch.equal(one.generate(**arguments), expected)


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("step", ["tree", "expand"])
def test_inputs_a_candidate_does_not_carry(step, way):
    """What a candidate forward knows nothing of is refused; plain decoding passes it on."""
    plain = tiny_model("llama")
    model = Shifted(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    shift = dict(shift=torch.tensor(7))
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step=step)
    assert refusal(way, config, model, **shift) == (
        f"generate: shift must be None where choices are made {CHOICES}, got Tensor"
    )
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=4)
    expected = model.generate(**arguments, **shift)
    assert torch.equal(way_in(way, model, NEVER)(**arguments, **shift), expected)
    assert not torch.equal(model.generate(**arguments), expected)


@pytest.mark.parametrize("way", WAYS_IN)
def test_positions_of_several_axes(way):
    """Qwen2-VL places even a text on three: plain decoding is its own, a choice is refused."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = dict(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_parameters=rope,
        pad_token_id=0,
        eos_token_id=None,
    )
    vision = dict(depth=1, embed_dim=16, num_heads=2, hidden_size=32, patch_size=4, mlp_ratio=1)
    tokens = dict(image_token_id=90, video_token_id=91, vision_start_token_id=92)
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Qwen2VLForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 0
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=4)
    assert torch.equal(way_in(way, model, NEVER)(**arguments), model.generate(**arguments))
    with pytest.raises(ValueError) as error:
        way_in(way, model, ALWAYS, make_selector(tiny_model("llama")))(**arguments)
    assert str(error.value) == (
        "generate: model must place tokens on one axis where candidates are scored (set "
        "trigger='never' or select='teacher'), got Qwen2VLForConditionalGeneration with positions "
        "of 3 dimensions"
    )


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
        "generate: teacher must be None for select='local' and trigger='always', got ModelTeacher"
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
