"""Findings about a model: how long they hold, and what they are never made of."""

import copy
import logging
import pickle

import pytest
import torch
from models import (
    add_adapter,
    as_a_library_s,
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaForCausalLM,
    LlamaModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from s2t_ext import S2TConfig
from s2t_ext.decoding.steps.self_test import attach
from s2t_ext.hf.cache_argument import ALL_CACHE_NAMES
from s2t_ext.hf.model_state import findings, interference

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
EXPAND = S2TConfig(k=4, trigger="always", warmup_steps=0, step="expand")
ONE = S2TConfig(k=1, trigger="always", warmup_steps=0)


def decode(model, config=ALWAYS, new_tokens=6):
    generate = way_in("generate", model, config, make_selector(tiny_model("llama")))
    return generate(
        input_ids=prompts(False).ids, max_new_tokens=new_tokens, return_dict_in_generate=True
    )


# ---- the caller's own acts -----------------------------------------------------------------------


def steer_last(module, arguments, output):
    """Pushes the last position only: which token that is depends on who shares the forward."""
    output = output.clone()
    output[:, -1] += torch.randn(32, generator=torch.Generator().manual_seed(3)) * 8
    return output


def pushed_by_a_hook(model):
    return model.model.layers[0].register_forward_hook(steer_last)


def pushed_by_a_pre_hook(model):
    return model.model.norm.register_forward_pre_hook(lambda m, a: (steer_last(m, a, a[0]),))


def pushed_by_its_forward(model):
    layer = model.model.layers[0]
    forward = layer.forward
    layer.forward = lambda *a, **k: steer_last(layer, a, forward(*a, **k))


@pytest.mark.parametrize("push", [pushed_by_a_hook, pushed_by_a_pre_hook, pushed_by_its_forward])
def test_what_is_added_after_the_first_use_is_seen(push):
    """And what is taken away."""
    model = build_model("llama")
    assert decode(model).s2t.step_mode == "tree"
    handle = push(model)
    output = decode(model)
    assert output.s2t.step_mode == "expand"
    assert "forward hook" in output.s2t.step_reason or "is replaced" in output.s2t.step_reason
    assert torch.equal(output.sequences, decode(model, EXPAND).sequences)
    plain = model.generate(prompts(False).ids, max_new_tokens=6)
    assert torch.equal(decode(model, ONE).sequences, plain)
    if handle is not None:
        handle.remove()
        assert decode(model).s2t.step_mode == "tree"


def test_hooks_are_not_run_to_find_anything_out():
    """They are called as often as the record counts forwards."""
    model = build_model("llama")
    calls = []
    model.model.layers[1].register_forward_hook(lambda m, a, o: calls.append(o.shape))
    assert decode(model).s2t.forward_passes == len(calls)


def test_hooks_that_rely_on_what_generate_passes():
    """A cache in every forward, and the batch of the prompts in the first."""
    model = build_model("llama")
    seen = []

    def hook(module, arguments, keywords, output):
        (cache,) = (keywords[n] for n in ALL_CACHE_NAMES if keywords.get(n) is not None)
        seen.append((cache.layers[module.layer_idx], output[0].shape[0]))

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(hook, with_kwargs=True)
    decode(model)
    assert seen[0][1] == 2


def test_hooks_of_libraries_do_not_count():
    """transformers keeps hooks in a model once its hidden states have been asked for."""
    model = build_model("llama")
    model(input_ids=prompts(False).ids, output_hidden_states=True, output_attentions=True)
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    assert interference(model) is None
    assert decode(model).s2t.step_mode == "tree"


# ---- the model itself ----------------------------------------------------------------------------


def test_findings_hold_until_something_changes():
    model = build_model("llama")
    found = findings(model)
    found["mine"] = 1
    decode(model)
    assert findings(model)["mine"] == 1
    changes = [
        lambda: model.train(),
        lambda: model.eval(),
        lambda: model.double(),
        lambda: model.set_attn_implementation("eager"),
        lambda: setattr(model.config, "rope_theta", 3.0),
        lambda: model.set_output_embeddings(copy.deepcopy(model.lm_head)),
        lambda: setattr(model.model, "__class__", type("Other", (LlamaModel,), {})),
        lambda: add_adapter(model),
    ]
    for change in changes:
        change()
        assert "mine" not in findings(model), change
        findings(model)["mine"] = 1


def test_adapters_of_another_kind_are_tried_anew():
    from peft import LoraConfig

    model = add_adapter(build_model("llama"))
    plain = model.get_base_model()
    decode(model)
    for change in (
        lambda: model.add_adapter("other", LoraConfig(target_modules=["q_proj"], use_dora=True)),
        lambda: model.set_adapter("other"),
        lambda: model.base_model.disable_adapter_layers(),
        lambda: model.merge_adapter(),
    ):
        findings(plain)["mine"] = 1
        change()
        assert "mine" not in findings(plain), change


def test_copies_find_their_own():
    """Findings refer to the model's modules: neither a copy nor a file takes them along."""
    model = build_model("llama")
    decode(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert attach(copied).head.model is copied
        assert torch.equal(decode(copied).sequences, decode(model).sequences)


def failing(model, times, error):
    """A model whose decoder raises in its first `times` forwards of candidates."""
    left = [times]

    @as_a_library_s
    class Body(LlamaModel):
        def forward(self, *arguments, **keywords):
            positions = keywords.get("position_ids")
            same = positions is not None and positions.shape[-1] > 1
            if same and bool((positions[0, 1:] == positions[0, :-1]).all()) and left[0]:
                left[0] -= 1
                raise error
            return super().forward(*arguments, **keywords)

    model.model.__class__ = Body
    return model


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("cuBLAS: CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_lack_of_memory_is_never_believed(error, caplog):
    model = failing(build_model("llama"), 3, error)
    caplog.set_level(logging.WARNING, "s2t_ext")
    for _ in range(3):
        found = attach(model)
        assert not found.tree
        assert found.reason == f"the tree forward raised {type(error).__name__}: {error}"
    assert attach(model).tree and attach(model) is attach(model)
    assert caplog.messages == [
        f"generate: the tree forward of LlamaForCausalLM: {type(error).__name__}: {error}"
    ]


def test_another_error_is_believed_when_it_comes_twice():
    model = failing(build_model("llama"), 5, KeyError("positions"))
    assert attach(model) is not attach(model)
    assert attach(model) is attach(model) and not attach(model).tree
    once = failing(build_model("llama"), 1, KeyError("positions"))
    assert not attach(once).tree
    assert attach(once).tree


def test_findings_are_made_outside_the_callers_contexts():
    """Under autocast two forwards differ by far more than the self-test allows."""
    model = build_model("llama")
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attach(model).tree
    assert torch.equal(torch.get_rng_state(), before)


# ---- what five tokens do not show ----------------------------------------------------------------


def window_of_8(module, query, key, value, mask, **options):
    """Attends to the last 8 tokens only."""
    options.pop("is_causal", None)
    n, length = query.shape[2], key.shape[2]
    j, i = torch.arange(length)[None], torch.arange(length - n, length)[:, None]
    own = ((j <= i) & (j > i - 8))[None, None]
    return sdpa_attention_forward(
        module, query, key, value, own if mask is None else own & mask, **options
    )


@pytest.mark.parametrize("name", ["window_of_8", "sdpa"])
def test_an_attention_of_the_callers_own(name, monkeypatch):
    """Under a name of its own, or put in the place of a known one."""
    if name == "sdpa":
        monkeypatch.setitem(AttentionInterface._global_mapping, name, window_of_8)
    else:
        AttentionInterface.register(name, window_of_8)
        AttentionMaskInterface.register(name, sdpa_mask)
    model = build_model("llama")
    model.set_attn_implementation(name)
    inputs = prompts(False)
    output = decode(model)
    assert output.s2t.step_reason == (
        f"the attention implementation {name!r} is not one of transformers' own"
    )
    selector = make_selector(tiny_model("llama"))
    assert_equals_reference(
        output.sequences, model, inputs, config=ALWAYS, selector=selector, new_tokens=6
    )


def test_remote_code_expands():
    class Remote(LlamaForCausalLM):
        pass

    Remote.register_for_auto_class("AutoModelForCausalLM")
    model = build_model("llama")
    model.__class__ = Remote
    assert "remote code" in attach(model).reason and not attach(model).tree
