"""Calibration: the threshold at which a trigger fires at a wanted rate on given prompts."""

import hashlib
import math

import pytest
import torch
from architectures import BOS, EOS
from models import make_selector, make_tokenizer, tiny_model

import s2t_ext
from s2t_ext import Calibration, S2TConfig
from s2t_ext.hf.prompts import chat_prompt, pad_prompts
from s2t_ext.selectors.thresholds import threshold_at_rate

PROMPTS = ["What is 2+2?", "Hi", "Name a prime above 100, please."]
TEMPLATE = "{% for m in messages %}{{ bos_token }}U:{{ m['content'] }}{% endfor %}A:"


# ---- quantiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("trigger", ["entropy", "margin", "head"])
def test_the_threshold_has_the_rate(trigger, rate):
    values = torch.randn(5000, generator=torch.Generator().manual_seed(1)).tolist()
    found = threshold_at_rate(values, rate, trigger)
    fired = [v < found.threshold if trigger == "margin" else v > found.threshold for v in values]
    assert found.rate == sum(fired) / 5000 == pytest.approx(rate, abs=1 / 5000)
    assert found.tokens == 5000 and found.prompts_sha256 == ""


def test_ties_do_not_fire():
    """At equal values no threshold has the rate; the calibration says which it has."""
    assert threshold_at_rate([1.0] * 100, 0.1, "entropy") == Calibration(1.0, 0.0, 100)


def test_rows_without_a_statistic_are_left_out():
    found = threshold_at_rate([1.0, math.nan, 3.0, math.inf], 0.5, "entropy")
    assert found == Calibration(2.0, 0.5, 2)
    with pytest.raises(ValueError) as error:
        threshold_at_rate([math.inf, math.nan], 0.5, "margin")
    assert str(error.value) == (
        "calibrate: trigger must have a finite statistic, got 'margin' with none"
    )


# ---- rollouts ------------------------------------------------------------------------------------


def calibrated(trigger="entropy", **options):
    options = {
        "rate": 0.25,
        "max_new_tokens": 20,
        "batch_size": 2,
        "progress": False,
        "eos_token_id": None,
        **options,
    }
    return s2t_ext.calibrate(
        tiny_model("llama"), make_tokenizer(), PROMPTS, trigger=trigger, **options
    )


@pytest.mark.parametrize("trigger", ["entropy", "margin", "head"])
def test_a_calibrated_trigger_fires_at_its_rate_on_the_same_prompts(trigger):
    """On the rollouts themselves: a scorer that always keeps the favourite repeats them."""
    model, tokenizer = tiny_model("llama"), make_tokenizer()
    head = (torch.randn(32), 0.0) if trigger == "head" else None
    selector = make_selector(model, prior_weight=1e6, trigger_head=head)
    found = calibrated(trigger, selector=selector)
    assert selector.calibrations == {trigger: found}
    assert found.tokens == 3 * (20 - 3)  # the warmup does not count
    assert found.rate == pytest.approx(0.25, abs=1 / found.tokens)
    assert found.prompts_sha256 == hashlib.sha256("\0".join(PROMPTS).encode()).hexdigest()
    inputs = pad_prompts(tokenizer, PROMPTS, model)
    output = s2t_ext.generate(
        model,
        **inputs,
        s2t=S2TConfig(trigger=trigger),  # the selector's threshold
        selector=selector,
        max_new_tokens=20,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    assert output.s2t.changed_tokens == 0
    share = output.s2t.triggers / found.tokens
    # Padding differs between batches of 2 and of 3, by rounding: one step more or less.
    assert share == pytest.approx(found.rate, abs=1.5 / found.tokens)


def test_the_rollouts_are_the_models_own_and_end_at_eos():
    """An end that the first prompt reaches only after the warmup shortens its statistics."""
    model, tokenizer = tiny_model("llama"), make_tokenizer()
    inputs = pad_prompts(tokenizer, PROMPTS[:2], model)
    whole = model.generate(**inputs, max_new_tokens=30, do_sample=False, eos_token_id=None)
    row = whole[0, inputs["input_ids"].shape[1] :].tolist()
    end = next(token for step, token in enumerate(row) if step >= 5 and token not in row[:step])
    found = calibrated(eos_token_id=[end], max_new_tokens=30)
    assert 0 < found.tokens < 3 * 27


def test_a_selectors_own_options_count():
    """Its support, its warmup: the statistic it will be compared with."""
    model = tiny_model("llama")
    decoding = S2TConfig(k=4, support=8, warmup_steps=10, trigger="margin", select="teacher")
    found = calibrated(selector=make_selector(model, decoding=decoding))
    assert found.tokens == 3 * 10
    assert found.threshold < math.log(8) < calibrated().threshold


def test_the_base_model_is_calibrated_where_it_proposes():
    from models import add_adapter, build_model

    plain, tokenizer = build_model("llama"), make_tokenizer()
    options = dict(rate=0.25, max_new_tokens=20, progress=False, eos_token_id=None)
    expected = s2t_ext.calibrate(plain, tokenizer, PROMPTS, **options)
    selector = make_selector(plain, decoding=S2TConfig(proposer="base"))
    adapted = add_adapter(plain)
    assert s2t_ext.calibrate(adapted, tokenizer, PROMPTS, selector=selector, **options) == expected
    assert s2t_ext.calibrate(adapted, tokenizer, PROMPTS, **options) != expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rate=0.0), "rate must be in (0, 1), got 0.0"),
        (dict(rate=1.0), "rate must be in (0, 1), got 1.0"),
        (dict(rate=math.nan), "rate must be a number, got nan"),
        (
            dict(trigger="random"),
            "trigger must be one of entropy, margin, head, got 'random'",
        ),
        (
            dict(trigger="head"),
            "selector must have a trigger head for trigger='head', got none",
        ),
        (dict(max_new_tokens=3), "rollouts must be longer than the warmup, got no steps"),
    ],
)
def test_invalid_arguments(options, message):
    with pytest.raises(ValueError) as error:
        calibrated(**options)
    assert str(error.value) == f"calibrate: {message}"


def test_prompts_are_needed():
    with pytest.raises(ValueError) as error:
        s2t_ext.calibrate(tiny_model("llama"), make_tokenizer(), [])
    assert str(error.value) == "calibrate: prompts must hold at least one text, got none"


# ---- prompts -------------------------------------------------------------------------------------


def test_chat_prompt():
    """Without a template the text itself."""
    assert chat_prompt(make_tokenizer(), "Hi") == "Hi"
    assert chat_prompt(make_tokenizer(TEMPLATE), "Hi") == "<bos>U:HiA:"


def test_the_bos_token_comes_once():
    """Whether the template writes it, or the tokenizer adds it, or both."""
    from tokenizers.processors import TemplateProcessing

    adds = make_tokenizer(TEMPLATE)
    adds.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    for tokenizer in (make_tokenizer(TEMPLATE), adds):
        ids = pad_prompts(tokenizer, [chat_prompt(tokenizer, "Hi")], tiny_model("llama"))
        row = ids["input_ids"][0].tolist()
        assert row.count(BOS) == 1 and row[0] == BOS
        assert tokenizer.decode(row[1:]) == "U:HiA:"


def test_pad_prompts_pads_on_the_left():
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.pad_token = None
    inputs = pad_prompts(tokenizer, ["abc", "d"], tiny_model("llama"))
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert inputs["input_ids"][1].tolist()[:2] == [EOS, EOS]
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_padding_needs_no_token_and_changes_no_tokenizer():
    """One prompt needs no padding; of several, what stands in it is masked."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.padding_side = "right"
    inputs = pad_prompts(tokenizer, ["abc", "d"], tiny_model("llama"))
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert tokenizer.pad_token is None and tokenizer.padding_side == "right"


def test_an_empty_prompt_is_named():
    for texts, number in ((["abc", ""], 1), ([""], 0)):
        with pytest.raises(ValueError, match=f"^pad_prompts: every prompt .* as number {number}$"):
            pad_prompts(make_tokenizer(), texts, tiny_model("llama"))


def test_a_system_prompt():
    template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}"
    assert chat_prompt(make_tokenizer(template), "Hi", "Be brief") == "system:Be brief;user:Hi;"
    with pytest.raises(ValueError, match="^chat_prompt: system must be None for a tokenizer witho"):
        chat_prompt(make_tokenizer(), "Hi", "Be brief")


def test_what_a_template_says_no_to_is_one_line():
    refuses = make_tokenizer("{{ raise_exception('no system turns') }}")
    with pytest.raises(ValueError) as error:
        chat_prompt(refuses, "Hi", "Be brief")
    assert str(error.value) == (
        "chat_prompt: the tokenizer's chat template must take turns of system, user, got "
        "TemplateError: no system turns"
    )
