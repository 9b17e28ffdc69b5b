"""Selectors with an adapter: they travel together, and a misfit leaves the model whole."""

import shutil
import warnings

import pytest
import torch
from checkpoint_cases import ALWAYS, generated, message
from models import add_adapter, build_model, make_selector, prompts, tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from s2t_ext import S2TConfig, Selector
from s2t_ext.demo import ASSETS
from s2t_ext.hf.adapters import has_adapter
from s2t_ext.hf.identity import describe_base_model


@pytest.mark.parametrize("save_head", [False, True])
def test_an_adapter_travels_with_its_selector(save_head, tmp_path):
    adapted = add_adapter(build_model("llama"), save_head=save_head)
    selector = make_selector(
        adapted.get_base_model(), base_model=describe_base_model(adapted), decoding=ALWAYS
    )
    selector.adapted_model = adapted
    expected = {p: generated(adapted, selector, c) for p, c in _proposers().items()}
    selector.save_pretrained(tmp_path)
    model = build_model("llama")
    loaded = Selector.from_pretrained(tmp_path, model)
    assert loaded.adapted_model.get_base_model() is model and has_adapter(model)
    for proposer, config in _proposers().items():
        assert torch.equal(generated(model, loaded, config), expected[proposer])
    assert not torch.equal(expected["base"], expected["adapted"])
    merged = loaded.merge()
    assert torch.equal(generated(merged, loaded), expected["adapted"])
    # Saved over its old self, the merged selector no longer brings the adapter.
    loaded.save_pretrained(tmp_path)
    again = Selector.from_pretrained(tmp_path, merged)
    assert again.adapted_model is None and not has_adapter(merged)
    assert torch.equal(generated(merged, again), expected["adapted"])


def _proposers() -> dict[str, S2TConfig]:
    return {
        name: S2TConfig(k=4, trigger="always", warmup_steps=0, proposer=name)
        for name in ("adapted", "base")
    }


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory):
    """A selector folder with an adapter for the tiny Llama; copy it before you break it."""
    folder = tmp_path_factory.mktemp("selector")
    adapted = add_adapter(build_model("llama"))
    selector = make_selector(adapted.get_base_model(), base_model=describe_base_model(adapted))
    selector.adapted_model = adapted
    return selector.save_pretrained(folder)


@pytest.fixture
def folder(adapter_folder, tmp_path):
    return shutil.copytree(adapter_folder, tmp_path / "copy")


def test_an_adapter_needs_its_model(folder):
    assert message(folder) == (
        f"load_selector: model must be given for a checkpoint with an adapter, got None ({folder})"
    )


def test_an_adapter_needs_a_plain_model(folder):
    adapted = add_adapter(build_model("llama"))
    assert message(folder, adapted) == (
        "load_selector: model must be a plain transformers model to attach an adapter to, got "
        "PeftModel with an adapter"
    )
    assert message(folder, adapted.get_base_model()) == (
        "load_selector: model must be a plain transformers model to attach an adapter to, got "
        "LlamaForCausalLM with an adapter"
    )


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_of_the_adapter(name, folder):
    (folder / name).unlink()
    model = build_model("llama")
    assert message(folder, model, FileNotFoundError) == (
        f"load_selector: {name} must be in the checkpoint, got none in {folder}"
    )
    assert not has_adapter(model)


def test_a_pickled_adapter_is_refused(folder):
    """And not loaded."""
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    model = build_model("llama")
    assert message(folder, model) == (
        "load_selector: the adapter must be in adapter_model.safetensors (loading a pickle can run "
        "any code), got adapter_model.bin"
    )
    assert not has_adapter(model)


def test_a_truncated_adapter(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    model = build_model("llama")
    assert message(folder, model).startswith(
        "load_selector: adapter_model.safetensors must be a complete safetensors file, got "
    )
    assert not has_adapter(model)


@pytest.mark.parametrize("change", ["wider", "deeper", "shallower", "other modules"])
def test_an_adapter_for_another_model_leaves_the_model_as_it_was(change, folder):
    """Its own configuration says nothing of the model; its tensors do."""
    (folder / "s2t_config.json").unlink()  # a research adapter names no base model
    options = tiny_model("llama").config.to_dict()
    options |= {
        "wider": dict(intermediate_size=48),
        "deeper": dict(num_hidden_layers=3),
        "shallower": dict(num_hidden_layers=1),
        "other modules": {},
    }[change]
    model = build_model(
        "gpt2" if change == "other modules" else type(tiny_model("llama").config)(**options)
    )
    before = {name: id(module) for name, module in model.named_modules()}
    model.lm_head.weight.requires_grad_(False)
    frozen = [p.requires_grad for p in model.parameters()]
    logits = model(input_ids=prompts(False).ids).logits
    text = message(folder, model, reserved_ids=range(80, 96))
    expected = {
        "wider": "Error(s) in loading state_dict",
        "deeper": "14 of its LoRA tensors missing and 0 without a layer",
        "shallower": "0 of its LoRA tensors missing and 14 without a layer",
        "other modules": "Target modules ",
    }[change]
    assert text.startswith(
        f"load_selector: adapter must fit {type(model).__name__}, got {expected}"
    )
    assert not has_adapter(model) and not hasattr(model, "peft_config")
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert [p.requires_grad for p in model.parameters()] == frozen
    assert torch.equal(model(input_ids=prompts(False).ids).logits, logits)


def test_loading_an_adapter_warns_of_nothing():
    """Whoever loads a selector can do nothing about the names that PEFT reads."""
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "student")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Selector.from_pretrained("s2t_ext/demo", model).adapted_model is not None
