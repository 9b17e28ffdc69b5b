"""The private names of other packages that `s2t_ext.hf` rests on, one test for each.

A test that fails here says that a new release of the package has moved a name: either teach
`s2t_ext/hf` the new way, or lower the range that `generate_internals.SUPPORTED` (transformers) or
pyproject.toml (torch, peft) claims.
"""

import numpy as np
import peft
import pytest
import torch
import transformers
from models import add_adapter, build_model, prompts, tiny_model, way_in
from transformers import CompileConfig, DynamicCache, GenerationConfig, StaticCache

from s2t_ext import S2TConfig
from s2t_ext.hf import generate_internals
from s2t_ext.hf.adapters import adapter_layers
from s2t_ext.hf.attention.candidate_attention import attention_implementation
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT


def moved(package, name: str) -> str:
    return f"{package.__name__} {package.__version__} has moved or changed {name}: see this file"


def test_prefill():
    model, ids = tiny_model("llama"), prompts(False).ids
    words = moved(transformers, "GenerationMixin._prefill")
    assert hasattr(model, "_prefill"), words
    kwargs = {CACHE_ARGUMENT: DynamicCache(config=model.config), "use_cache": True}
    outputs = generate_internals.prefill(model, ids, GenerationConfig(), kwargs)
    assert torch.equal(outputs.logits, model(input_ids=ids).logits), words


def test_update_model_kwargs_for_generation():
    model, inputs = tiny_model("llama"), prompts(True)
    words = moved(transformers, "GenerationMixin._update_model_kwargs_for_generation")
    assert hasattr(model, "_update_model_kwargs_for_generation"), words
    outputs = model(input_ids=inputs.ids, attention_mask=inputs.mask, use_cache=True)
    kwargs = {"attention_mask": inputs.mask, "position_ids": torch.arange(9)[None]}
    updated = generate_internals.update_model_kwargs(model, outputs, kwargs)
    assert updated[CACHE_ARGUMENT] is outputs[CACHE_ARGUMENT], words
    assert updated["attention_mask"].shape[1] == updated["position_ids"].shape[1] == 10, words


def test_valid_auto_compile_criteria():
    model = tiny_model("llama")
    words = moved(transformers, "GenerationMixin._valid_auto_compile_criteria")
    assert hasattr(model, "_valid_auto_compile_criteria"), words
    static = StaticCache(config=model.config, max_cache_len=16)
    everywhere = CompileConfig()
    everywhere._compile_all_devices = True
    config = GenerationConfig(compile_config=everywhere)
    options = generate_internals.compile_options
    assert options(model, config, {CACHE_ARGUMENT: static}) is everywhere, words
    assert options(model, config, {CACHE_ARGUMENT: DynamicCache()}) is None, words


def test_attn_implementation():
    model = build_model("llama")
    words = moved(transformers, "PretrainedConfig._attn_implementation")
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert hasattr(model.config, "_attn_implementation"), words
        assert attention_implementation(model.config) == name, words


def test_disable_adapters():
    model = add_adapter(build_model("llama"))
    ids = prompts(False).ids
    words = moved(peft, "BaseTunerLayer._disable_adapters")
    with model.disable_adapter():
        assert all(vars(x)["_disable_adapters"] for x in adapter_layers(model)), words
        base = model(input_ids=ids).logits
    for layer in adapter_layers(model):
        vars(layer)["_disable_adapters"] = True
    assert torch.equal(model(input_ids=ids).logits, base), words


def test_version():
    """Counts what is written into a tensor; a fingerprint is taken anew when it has changed."""
    words = moved(torch, "Tensor._version")
    weight = torch.nn.Parameter(torch.zeros(3))
    assert hasattr(weight, "_version"), words
    before = weight._version
    with torch.no_grad():
        weight.copy_(torch.ones(3))
    assert weight._version > before, words


@pytest.mark.skipif(not torch.cuda.is_available(), reason="an operator of CUDA devices")
def test_scaled_dot_product_flash_attention():
    check_flash_attention("_scaled_dot_product_flash_attention", "cuda", torch.bfloat16)


def test_scaled_dot_product_flash_attention_for_cpu():
    check_flash_attention("_scaled_dot_product_flash_attention_for_cpu", "cpu", torch.float32)


def check_flash_attention(name, device, dtype):
    """Output and log-sum-exp of the scaled scores."""
    words = moved(torch, f"torch.ops.aten.{name}")
    assert hasattr(torch.ops.aten, name), words
    q, k, v = torch.randn(3, 1, 2, 8, 16, device=device, dtype=dtype)
    output, logsumexp = getattr(torch.ops.aten, name)(q, k, v, scale=0.3)[:2]
    scores = (q.float() @ k.float().transpose(-1, -2)) * 0.3
    assert torch.allclose(logsumexp.float(), scores.logsumexp(-1), atol=1e-2), words
    assert torch.allclose(output.float(), scores.softmax(-1) @ v.float(), atol=1e-2), words


# ---- what is said without them -------------------------------------------------------------------


def test_the_frame_of_generate():
    """Its locals name the streamer, the assistant model, and under `kwargs` all other arguments."""
    found = []

    def callable_of_mine(model, input_ids, **others):
        found.append(generate_internals.arguments_of_generate())
        return input_ids

    model, inputs = tiny_model("llama"), prompts(True)
    cache, streamer = DynamicCache(), object.__new__(transformers.TextStreamer)
    streamer.put = lambda ids: None
    model.generate(
        inputs.ids,
        attention_mask=inputs.mask,
        custom_generate=callable_of_mine,
        streamer=streamer,
        synced_gpus=True,
        **{CACHE_ARGUMENT: cache},
    )
    (call,) = found
    words = moved(transformers, "the local variables of GenerationMixin.generate")
    assert call.streamer is streamer and call.assistant_model is None and call.synced_gpus, words
    assert call.cache is cache and call.mask_length == 9, words


def test_a_frame_that_is_not_found_raises():
    with pytest.raises(RuntimeError) as error:
        generate_internals.arguments_of_generate()
    assert str(error.value) == (
        "generate: decoding_method() must be called by model.generate of a transformers release "
        f"whose arguments it can read, got none in release {transformers.__version__}"
    )


def test_a_private_name_that_is_missing():
    with pytest.raises(ImportError) as error:
        generate_internals.private(tiny_model("llama"), "_no_such_name")
    first, end = generate_internals.SUPPORTED
    assert str(error.value) == (
        "generate: transformers must have LlamaForCausalLM._no_such_name, got release "
        f"{transformers.__version__} without it: pip install 'transformers>={first},<{end}'"
    )


def test_the_installed_release_is_a_supported_one():
    generate_internals.check_release()


@pytest.mark.parametrize("release", ["5.16.1", "5.25.0", "6.0.0.dev0", "5.25.0.dev0"])
def test_releases_that_the_loop_does_not_know(release, monkeypatch):
    """Said where the decode loop starts, in one sentence."""
    with pytest.raises(ImportError) as error:
        generate_internals.check_release(release)
    assert str(error.value) == (
        "generate: transformers must be at least 5.17 and below 5.25 (the decode loop rests on "
        f"parts of it that change between releases), got {release}: "
        "pip install 'transformers>=5.17,<5.25'"
    )
    monkeypatch.setattr(generate_internals.check_release, "__defaults__", (release,))
    generate = way_in("generate", tiny_model("llama"), S2TConfig(trigger="never"))
    with pytest.raises(ImportError, match="got " + release):
        generate(input_ids=prompts(False).ids, max_new_tokens=2)


def test_experts_are_switched_while_decoding(monkeypatch):
    """By the public setters, and only off the CPU."""
    model = build_model("mixtral")
    before = model.get_experts_implementation()
    with generate_internals.experts_for_decoding(model):
        assert model.get_experts_implementation() == before
    model.set_experts_implementation("grouped_mm")
    grouped = model.get_experts_implementation()
    monkeypatch.setattr(type(model), "device", torch.device("meta"))
    with pytest.raises(KeyError), generate_internals.experts_for_decoding(model):
        assert set(model.get_experts_implementation().values()) == {"batched_mm"}
        raise KeyError("inside")
    assert model.get_experts_implementation() == grouped


@pytest.mark.parametrize(
    ("pad", "eos", "expected"),
    [
        (3, 2, 3),
        (np.int64(3), 2, 3),
        (None, 2, 2),
        (None, [5, 2], 5),
        (None, [[5]], 5),
        (None, np.array([5, 2]), 5),
        (None, torch.tensor([7]), 7),
        (None, [], 0),
        (None, None, 0),
    ],
)
def test_pad_token(pad, eos, expected):
    assert generate_internals.pad_token_id(
        GenerationConfig(pad_token_id=pad, eos_token_id=eos)
    ) == (expected)
