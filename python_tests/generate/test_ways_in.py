"""The three ways in, and the wrappers they meet: one behaviour, or a refusal in words."""

import copy
import io
import pickle

import pytest
import tokenizers
import torch
import transformers
from models import WAYS_IN, build_model, make_selector, make_tokenizer, prompts, tiny_model, way_in
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

import s2t_ext
from s2t_ext import S2TConfig, Teacher

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
IDS = prompts(False).ids
FIXED = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)


def selector():
    return make_selector(tiny_model("llama"))


def expected():
    return way_in("generate", tiny_model("llama"), ALWAYS, selector())(input_ids=IDS, **FIXED)


# ---- arguments -----------------------------------------------------------------------------------


def test_arguments_by_position():
    """As `model.generate` takes them: the prompt, then a configuration."""
    options = dict(max_new_tokens=6, do_sample=False)
    config, model = GenerationConfig(**options), build_model("llama")
    s2t = dict(s2t=ALWAYS, selector=selector())
    by_name = s2t_ext.generate(model, IDS, **s2t, **options)
    assert torch.equal(s2t_ext.generate(model, IDS, config, **s2t), by_name)
    method = s2t_ext.decoding_method(**s2t)
    assert torch.equal(model.generate(IDS, config, custom_generate=method), by_name)
    s2t_ext.patch(model, **s2t)
    assert torch.equal(model.generate(IDS, config), by_name)
    assert torch.equal(model.generate(IDS, config, None, None), by_name)


def test_a_tokenizer_s_output_is_a_prompt():
    encoded = transformers.BatchEncoding(dict(input_ids=IDS, attention_mask=torch.ones_like(IDS)))
    actual = s2t_ext.generate(
        tiny_model("llama"), encoded, s2t=ALWAYS, selector=selector(), **FIXED
    )
    assert torch.equal(actual, expected())


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(cache_implementation="paged"), "cache_implementation must not be 'paged'"),
        (
            dict(generation_config=GenerationConfig(cache_implementation="paged")),
            "cache_implementation must not be 'paged'",
        ),
        (dict(token_healing=True), "token_healing must be False"),
        (
            dict(generation_config=GenerationConfig(token_healing=True)),
            "token_healing must be False",
        ),
    ],
)
def test_refused_in_the_same_words(way, arguments, words):
    """Also where transformers would decode plainly without ever reaching the method."""
    with pytest.raises(ValueError, match="^generate: " + words):
        way_in(way, tiny_model("llama"), ALWAYS, selector())(input_ids=IDS, **arguments)


@pytest.mark.parametrize("way", WAYS_IN)
def test_stop_strings(way):
    tokenizer = make_tokenizer()
    whole = expected()[:1]
    word = tokenizer.decode(whole[0, -4:-2])
    arguments = dict(input_ids=IDS[:1], **FIXED)
    generate = way_in(way, tiny_model("llama"), ALWAYS, selector())
    output = generate(**arguments, stop_strings=[word], tokenizer=tokenizer)
    assert torch.equal(output, whole[:, : output.shape[1]]) and output.shape[1] < whole.shape[1]


def test_options_as_a_dictionary():
    options = dict(k=4, trigger="always", warmup_steps=0)
    actual = s2t_ext.generate(tiny_model("llama"), IDS, s2t=options, selector=selector(), **FIXED)
    assert torch.equal(actual, expected())


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_teacher_s_tokenizer_is_compared(way):
    """Of the same size, but other tokens."""
    tokenizer = make_tokenizer()
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    turned = {word: i for i, word in enumerate([*words[:3], *reversed(words[3:])])}
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE(turned, []))
    )
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, select="teacher")
    for theirs, fits in ((make_tokenizer(), True), (other, False), (None, True)):
        teacher = Teacher.from_model(build_model("llama", 3), theirs)
        generate = way_in(way, build_model("llama"), config, teacher=teacher)
        if fits:
            generate(input_ids=IDS, tokenizer=tokenizer, **FIXED)
        else:
            with pytest.raises(ValueError, match="teacher must have the student's tokenizer"):
                generate(input_ids=IDS, tokenizer=tokenizer, **FIXED)


# ---- patched models ------------------------------------------------------------------------------


def saved_and_loaded(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded]
)
def test_copies_of_a_patched_model_are_patched(copied):
    """On their own: what they generate does not come from the original."""
    model = s2t_ext.patch(build_model("llama"), ALWAYS, selector())
    model.generate(IDS, **FIXED)  # what is found out about a model is not copied
    other = copied(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(other.generate(IDS, **FIXED), expected())
    assert s2t_ext.unpatch(other) is other
    plain = tiny_model("llama").generate(IDS, **FIXED)
    assert torch.equal(other.generate(IDS, **FIXED), plain)
    assert "generate" in vars(model) and "generate" not in vars(other)


def test_a_callable_of_the_caller_s_own_wins():
    model = s2t_ext.patch(build_model("llama"), ALWAYS, selector())
    never = s2t_ext.decoding_method(S2TConfig(trigger="never"))
    plain = tiny_model("llama").generate(IDS, **FIXED)
    assert torch.equal(model.generate(IDS, custom_generate=never, **FIXED), plain)


class ValueHead(torch.nn.Module):
    """As reinforcement learning wraps models."""

    def __init__(self, model):
        super().__init__()
        self.pretrained_model = model

    def generate(self, *arguments, **options):
        return self.pretrained_model.generate(*arguments, **options)


def lora():
    return LoraConfig(target_modules=["q_proj"])


WRAPPERS = {
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "peft": lambda m: get_peft_model(m, lora()),
    "mixed": lambda m: get_peft_model(m, lora(), mixed=True),
    "compiled peft": lambda m: torch.compile(get_peft_model(m, lora()), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("way", WAYS_IN)
def test_wrappers(way, wrapper):
    model = WRAPPERS[wrapper](build_model("llama").eval())
    actual = way_in(way, model, ALWAYS, selector())(input_ids=IDS, **FIXED)
    assert torch.equal(actual, expected())
    plain = tiny_model("llama").generate(IDS, **FIXED)
    assert torch.equal(model.generate(input_ids=IDS, **FIXED), plain)


def test_wrappers_that_hide_their_model():
    model = ValueHead(build_model("llama"))
    for call, name in ((s2t_ext.patch, "patch"), (s2t_ext.generate, "generate")):
        with pytest.raises(ValueError) as error:
            call(model, s2t=ALWAYS, selector=selector())
        assert str(error.value) == (
            f"{name}: model must be a causal language model of transformers, got ValueHead"
        )
