"""Whether a model can run tree steps, found out by trying; and what its head does to its logits."""

import pytest
import torch
from architectures import ARCHITECTURES
from models import (
    Prompts,
    as_a_library_s,
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)
from transformers import LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaAttention

from s2t_ext import S2TConfig
from s2t_ext.decoding.steps.self_test import attach
from s2t_ext.hf.logits_head import PostProcessing, find_logits_head


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_self_test(name):
    found = attach(tiny_model(name))
    assert found.tree == (ARCHITECTURES[name].step_mode == "tree")
    assert attach(tiny_model(name)) is found
    reasons = {
        "mamba2": "Mamba2ForCausalLM does not take registered attention implementations",
        "bloom": "BloomForCausalLM does not take registered attention implementations",
    }
    assert found.reason == reasons.get(name, found.reason)
    assert found.ragged == found.tree
    if found.tree:
        assert found.reason == "tree and expanded forwards agree"


def check_expands(model, reason: str) -> None:
    """Falls back, says why, refuses step="tree", and still equals the reference."""
    assert reason in attach(model).reason
    selector, ids = make_selector(model), prompts(False).ids
    config = S2TConfig(k=3, trigger="always", warmup_steps=0)
    output = way_in("generate", model, config, selector)(
        input_ids=ids, max_new_tokens=4, return_dict_in_generate=True
    )
    assert output.s2t.step_mode == "expand" and reason in output.s2t.step_reason
    inputs = Prompts(ids, torch.ones_like(ids))
    assert_equals_reference(
        output.sequences, model, inputs, config=config, selector=selector, new_tokens=4
    )
    config = S2TConfig(k=3, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, selector)(input_ids=ids, max_new_tokens=4)
    assert str(error.value) == (
        "generate: step must be 'auto' or 'expand' for this model, got 'tree' "
        f"({attach(model).reason})"
    )


def model_whose_body(does):
    """A Llama whose decoder calls `does(keyword arguments)` first, as a new release's may."""

    @as_a_library_s
    class Body(LlamaModel):
        def forward(self, *arguments, **keywords):
            does(keywords)
            return super().forward(*arguments, **keywords)

    model = build_model("llama")
    model.model.__class__ = Body
    return model


def test_a_model_that_ignores_positions_expands():
    """It counts the tokens of its cache instead, one position a candidate."""

    def forget_positions(keywords):
        keywords["position_ids"] = None

    model = model_whose_body(forget_positions)
    check_expands(model, "tree and expanded forwards differ by")


def test_a_model_that_cannot_run_several_tokens_at_a_position_expands():

    def refuse(keywords):
        positions = keywords.get("position_ids")
        if positions is not None and positions.shape[-1] > 1:
            if bool((positions[..., 1:] == positions[..., :-1]).any(-1).all()):
                raise KeyError("positions")

    model = model_whose_body(refuse)
    check_expands(model, "the tree forward raised KeyError: 'positions'")


def test_a_model_that_knows_its_batch_keeps_its_rows_apart():
    """Tree steps are exact, but not with the rows laid side by side."""

    def insist(keywords):
        positions = keywords.get("position_ids")
        assert positions is None or positions.shape[0] > 1

    model = model_whose_body(insist)
    found = attach(model)
    assert found.tree and not found.ragged
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=6, seed=3)
    config = S2TConfig(k=3, trigger="random", threshold=0.5, warmup_steps=0)
    selector = make_selector(tiny_model("llama"))
    actual = way_in("generate", model, config, selector)(**arguments)
    expected = way_in("generate", tiny_model("llama"), config, selector)(**arguments)
    assert torch.equal(actual, expected)


def test_a_model_that_generate_gives_no_positions_expands():
    """Its forward does not name them, so transformers leaves them to the model."""

    @as_a_library_s
    class Taciturn(LlamaForCausalLM):
        def forward(self, *arguments, **options):
            return super().forward(*arguments, **options)

    model = build_model("llama")
    model.__class__ = Taciturn
    assert attach(model).tree
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=4)
    config = S2TConfig(k=3, trigger="always", warmup_steps=0)
    selector = make_selector(model)
    output = way_in("generate", model, config, selector)(**arguments, return_dict_in_generate=True)
    assert output.s2t.step_reason == "Taciturn is given no position_ids"
    named = way_in("generate", tiny_model("llama"), config, selector)(**arguments)
    assert torch.equal(output.sequences, named)
    config = S2TConfig(k=3, trigger="always", warmup_steps=0, step="tree")
    with pytest.raises(ValueError) as error:
        way_in("generate", model, config, selector)(**arguments)
    assert str(error.value) == (
        "generate: position_ids must be an argument of the model's forward for step='tree', got "
        "none in Taciturn"
    )


def test_layers_that_hold_no_alternatives_expand():
    found = attach(tiny_model("qwen3_next"))
    assert "linear_attention" in found.reason or "registered" in found.reason


def test_leaving_training_mode_tests_again():
    """Dropout makes tree and expanded forwards differ."""
    model = build_model("gpt2").train()
    assert not attach(model).tree
    assert attach(model.eval()).tree


# ---- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "post"),
    [
        ("llama", PostProcessing()),
        ("granite", PostProcessing(scale=1 / 3)),
        ("cohere2", PostProcessing(scale=0.3)),
        ("gemma2", PostProcessing(softcap=30.0)),
        ("falcon_h1", PostProcessing(scale=0.5)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_post_processing_of_the_head_is_found(name, post, dtype):
    """Also where the cap changes the logits by less than a low precision would excuse."""
    model = build_model(name).to(dtype)
    head = find_logits_head(model)
    assert head.post == post and head.body is model.base_model


def test_a_head_with_post_processing_unknown_runs_the_whole_model():
    """Its logits are taken from the model itself, then, at the candidates' positions."""

    @as_a_library_s
    class Odd(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
            inputs = dict(attention_mask=attention_mask, position_ids=position_ids)
            output = super().forward(input_ids, **inputs, **options)
            output.logits = output.logits.sinh()
            return output

    model = build_model("llama")
    model.__class__ = Odd
    assert find_logits_head(model).body is None
    selector, inputs = make_selector(model), prompts(True)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
    output = way_in("generate", model, config, selector, seed=3)(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=8,
        return_dict_in_generate=True,
    )
    assert output.s2t.step_mode == "tree"
    assert_equals_reference(
        output.sequences, model, inputs, config=config, selector=selector, new_tokens=8, seed=3
    )


class AttentionOfItsOwn(LlamaAttention):
    """Like its parent, except beyond the tokens a self-test could see."""

    def forward(self, hidden_states, position_embeddings=None, **others):
        output, weights = super().forward(hidden_states, position_embeddings, **others)
        return output * (1.0 if hidden_states.shape[1] < 8 else 1.5), weights


class ScaledLinear(torch.nn.Linear):
    def forward(self, input):
        return super().forward(input) * 1.5


class BodyOfItsOwn(LlamaModel):
    """Like its parent, except after more tokens than a self-test could see."""

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **others):
        output = super().forward(input_ids, attention_mask, position_ids, **others)
        if attention_mask is not None and attention_mask.shape[1] > 8:
            output.last_hidden_state = output.last_hidden_state.flip(-1)
        return output


class PreparesItsOwn(LlamaForCausalLM):
    def prepare_inputs_for_generation(self, input_ids, **others):
        return super().prepare_inputs_for_generation(input_ids, **others)


class GeneratesItsOwn(LlamaForCausalLM):
    """What is around the forwards does not matter."""

    def __init__(self, config):
        super().__init__(config)

    def generate(self, *arguments, **others):
        return super().generate(*arguments, **others)

    def something_new(self):
        return 1


KINDS_OF_MODELS = ("body", "method of the model")


def replaced(model, kind):
    """Puts an attention of the caller's own into the model; returns what undoes it."""
    layer = model.model.layers[1]
    before = layer.self_attn
    if kind == "module":
        layer.self_attn = AttentionOfItsOwn(model.config, 1).eval()
        layer.self_attn.load_state_dict(before.state_dict())
        return lambda: setattr(layer, "self_attn", before)
    if kind == "forward of the class":
        own = LlamaAttention.forward
        LlamaAttention.forward = lambda self, *a, **k: own(self, *a, **k)
        return lambda: setattr(LlamaAttention, "forward", own)
    if kind in KINDS_OF_MODELS:
        module, own = (model.model, BodyOfItsOwn) if kind == "body" else (model, PreparesItsOwn)
        parent, module.__class__ = type(module), own
        return lambda: setattr(module, "__class__", parent)
    own = torch.nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    return own.remove


@pytest.mark.parametrize(
    "kind", ["module", *KINDS_OF_MODELS, "forward of the class", "hook of all modules"]
)
def test_code_of_the_callers_own_expands(kind):
    """Also when it comes after the first use of the model; and not when it has gone again."""
    model = build_model("llama")
    assert attach(model).tree
    undo = replaced(model, kind)
    try:
        assert not attach(model).tree
        reason = {"hook of all modules": "all modules have a forward hook"}.get(
            kind, "is not transformers' own"
        )
        assert reason in attach(model).reason
    finally:
        undo()
    assert attach(model).tree


def test_a_layer_of_one_tensor_does_not():
    """As packages for quantised weights bring them."""
    model = build_model("llama")
    layer = model.model.layers[0].mlp
    layer.up_proj = ScaledLinear(layer.up_proj.in_features, layer.up_proj.out_features, bias=False)
    assert attach(model.eval()).tree


def test_nor_does_what_is_around_the_forwards():
    model = build_model("llama")
    model.__class__ = GeneratesItsOwn
    assert attach(model).tree
