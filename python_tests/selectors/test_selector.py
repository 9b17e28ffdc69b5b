"""The selector in memory: its arguments, its scores, and the models it refuses to serve."""

import math

import pytest
import torch
from models import add_adapter, build_model, make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig, Selector, TriggerHead
from s2t_ext.hf.identity import describe_base_model

ROWS = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rows=torch.zeros(16)), "rows must be floating [R, D], got torch.float32 [16]"),
        (
            dict(rows=torch.zeros(2, 3, dtype=torch.int64)),
            "rows must be floating [R, D], got torch.int64 [2, 3]",
        ),
        (dict(rows=torch.zeros(65, 3)), "rows must have 1 to 64 bins, got 65"),
        (dict(rows=torch.zeros(0, 3)), "rows must have 1 to 64 bins, got 0"),
        (
            dict(rows=torch.full((2, 3), math.nan)),
            "rows must be finite, got NaN or infinities",
        ),
        (dict(rows=ROWS, bias=torch.zeros(15)), "bias must have shape [16], got [15]"),
        (
            dict(rows=ROWS, bias=torch.full((16,), math.inf)),
            "bias must be finite, got NaN or infinities",
        ),
        (
            dict(rows=ROWS, bin_values=torch.zeros(16, 1)),
            "bin_values must have shape [16], got [16, 1]",
        ),
        (dict(rows=ROWS, bin_temperature=0.0), "bin_temperature must be above 0, got 0.0"),
        (dict(rows=ROWS, bin_temperature=math.nan), "bin_temperature must be above 0, got nan"),
        (dict(rows=ROWS, prior_weight=math.nan), "prior_weight must be finite, got nan"),
        (
            dict(rows=ROWS, reserved_ids=range(65)),
            "reserved_ids must hold at most 64 ids, got 65",
        ),
        (dict(rows=ROWS, reserved_ids=[3, -1]), "reserved_ids must be at least 0, got [3, -1]"),
        (
            dict(rows=ROWS, trigger_head=(torch.zeros(31), 0.0)),
            "trigger_head must have 32 weights, got 31",
        ),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        Selector(**arguments)
    assert str(error.value) == f"Selector: {message}"


def test_defaults():
    selector = Selector(ROWS, reserved_ids=[5, 3, 5], trigger_head=(torch.zeros(1, 32), 1))
    assert (selector.num_bins, selector.hidden_size) == (16, 32)
    assert torch.equal(selector.bin_values, torch.linspace(0, 1, 16))
    assert selector.bias is None and selector.reserved_ids == (3, 5)
    assert isinstance(selector.trigger_head, TriggerHead)
    assert selector.trigger_head.weight.shape == (32,) and selector.trigger_head.bias == 1.0
    assert repr(selector) == (
        "Selector(bins=16, hidden_size=32, prior_weight=0, reserved_ids=2, for any model)"
    )
    assert selector.to("cpu") is selector


def test_score_is_the_mean_bin():
    selector = Selector(
        ROWS,
        bias=torch.linspace(-1, 1, 16),
        bin_values=torch.linspace(2, 3, 16),
        bin_temperature=0.5,
        logit_scale=2.0,
        softcap=5.0,
    )
    hidden = torch.randn(7, 32)
    logits = 2.0 * (hidden @ ROWS.T + torch.linspace(-1, 1, 16)).double()
    logits = 5.0 * torch.tanh(logits / 5.0)
    expected = (logits / 0.5).softmax(-1) @ torch.linspace(2, 3, 16).double()
    torch.testing.assert_close(selector.score(hidden).double(), expected, atol=1e-5, rtol=0)


def test_tensors_that_require_gradients_are_detached():
    selector = Selector(ROWS.clone().requires_grad_(), bias=torch.zeros(16, requires_grad=True))
    assert not selector.rows.requires_grad and not selector.bias.requires_grad


# ---- the model it serves -------------------------------------------------------------------------


def refused(selector: Selector, model) -> str:
    with pytest.raises(ValueError) as error:
        selector.check_fits(model)
    config = S2TConfig(trigger="always")
    with pytest.raises(ValueError) as again:
        way_in("generate", model, config, selector)(input_ids=prompts(False).ids, max_new_tokens=3)
    assert str(again.value) == str(error.value)
    return str(error.value)


def test_another_width_is_refused():
    assert refused(Selector(torch.zeros(4, 31)), tiny_model("llama")) == (
        "generate: selector must have rows of the model's hidden size 32, got 31"
    )


def test_reserved_ids_out_of_the_vocabulary_are_refused():
    assert refused(Selector(ROWS, reserved_ids=[96, 97]), tiny_model("llama")) == (
        "generate: selector must reserve ids below the vocabulary size 97, got 97"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "qwen2"),
        ("vocab_size", 98),
        ("num_hidden_layers", 3),
        ("fingerprint", "0123456789abcdef"),
    ],
)
def test_another_base_model_is_refused(key, value):
    model = tiny_model("llama")
    base = {**describe_base_model(model), "name": "tiny", key: value}
    actual = describe_base_model(model)[key]
    assert refused(Selector(ROWS, base_model=base), model) == (
        f"generate: selector must belong to the model ({key} {actual}), got a selector for tiny "
        f"({key} {value})"
    )
    Selector(ROWS, base_model={**describe_base_model(model), "name": "tiny"}).check_fits(model)
    Selector(ROWS, base_model={"name": "says nothing else", key: None}).check_fits(model)


def test_the_fingerprint_is_of_the_weights():
    """The same in every dtype, another for other weights, and not an adapter's."""
    model = build_model("llama")
    base = describe_base_model(model)
    assert describe_base_model(build_model("llama").bfloat16()) == base
    assert describe_base_model(build_model("llama", seed=1))["fingerprint"] != base["fingerprint"]
    from peft import LoraConfig, get_peft_model

    options = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    adapted = get_peft_model(model, options).eval()
    with torch.no_grad():
        adapted.get_base_model().get_input_embeddings().weight.add_(1.0)
    assert describe_base_model(adapted) == base
    Selector(ROWS, base_model=base).check_fits(adapted.get_base_model())


def test_merge():
    """The plain model with the adapter's weights; the selector then fits it as its own."""
    model = add_adapter(build_model("llama"))
    inputs = prompts(False)
    expected = model(input_ids=inputs.ids).logits
    selector = make_selector(model.get_base_model(), base_model=describe_base_model(model))
    selector.adapted_model = model
    merged = selector.merge()
    torch.testing.assert_close(merged(input_ids=inputs.ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert selector.adapted_model is None and "fingerprint" not in selector.base_model
    selector.check_fits(merged)
    with pytest.raises(ValueError) as error:
        selector.merge()
    assert str(error.value) == "merge: selector must hold an adapter, got none"
