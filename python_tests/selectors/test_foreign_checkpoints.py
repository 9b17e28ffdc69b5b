"""Selectors in forms that are not ours: the released research code's, and a bare score head."""

import json

import pytest
import torch
from checkpoint_cases import generated, message
from models import add_adapter, build_model, make_tokenizer, prompts, tiny_model
from safetensors.torch import save_file

from s2t_ext import Calibration, S2TConfig, Selector
from s2t_ext.hf.adapters import has_adapter
from s2t_ext.hf.identity import describe_base_model

# ---- the released research code's form -----------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("modules", [["lm_head"], ["lm_head", "embed_tokens"]])
def test_a_research_adapter(modules, tied, tmp_path):
    """A PEFT folder whose own head holds the score rows among the vocabulary's."""
    from peft import LoraConfig, get_peft_model

    def plain():
        options = tiny_model("llama").config.to_dict() | dict(tie_word_embeddings=tied)
        return build_model(type(tiny_model("llama").config)(**options))

    options = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], modules_to_save=modules)
    adapted = get_peft_model(plain(), options).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    adapted.save_pretrained(tmp_path)
    reserved = tuple(range(81, 97))
    base = describe_base_model(plain())
    model = plain()
    selector = Selector.from_pretrained(tmp_path, model, reserved_ids=reserved, prior_weight=0.1)
    assert selector.reserved_ids == reserved and selector.prior_weight == 0.1
    assert selector.base_model == base
    head = adapted.get_base_model().lm_head.modules_to_save["default"].weight
    assert torch.equal(selector.rows, head[81:97])
    ids = prompts(False).ids
    torch.testing.assert_close(model(input_ids=ids).logits, adapted(input_ids=ids).logits)
    output = generated(model, selector)
    assert not torch.isin(output[:, 9:], torch.tensor(reserved)).any()
    # Imported, it is a selector folder like any other.
    selector.save_pretrained(tmp_path / "imported")
    fresh = plain()
    loaded = Selector.from_pretrained(tmp_path / "imported", fresh)
    assert torch.equal(loaded.rows, selector.rows) and loaded.reserved_ids == reserved
    assert torch.equal(generated(fresh, loaded), output)
    assert torch.equal(generated(loaded.merge(), loaded), output)


def test_the_rows_of_a_research_adapter_are_found_by_its_tokenizer(tmp_path):
    """Those no token uses; here the vocabulary has 97 entries and the head 120 rows."""
    options = tiny_model("llama").config.to_dict() | dict(vocab_size=120)
    config = type(tiny_model("llama").config)(**options)
    add_adapter(build_model(config), save_head=True).save_pretrained(tmp_path)
    model = build_model(config)
    assert message(tmp_path, model) == (
        "load_selector: reserved_ids must be given where no tokenizer is found, got None "
        f"({tmp_path})"
    )
    make_tokenizer().save_pretrained(tmp_path)
    assert not has_adapter(model)
    assert Selector.from_pretrained(tmp_path, model).reserved_ids == tuple(range(97, 113))
    small = build_model("llama")
    text = message(tmp_path, small)
    assert text == (
        "load_selector: reserved_ids must be given where the vocabulary leaves fewer than 16 rows "
        "unused, got None and 0 unused rows"
    )
    text = message(tmp_path, small, reserved_ids=[96, 97])
    assert text == (
        "load_selector: reserved_ids must be one or more rows of the head, in [0, 97), got [97]"
    )
    assert not has_adapter(small)


# ---- a bare score head ---------------------------------------------------------------------------

BARE = {
    "base_model": "tiny llama",
    "num_bins": 16,
    "hidden_size": 32,
    "bin_temperature": 1.0,
    "prior_weight": 0.1105,
    "k": 8,
    "trigger": "entropy",
    "entropy_threshold": {"5%": 1.119, "1%": 1.801, "10%": 0.789},
    "vocabulary_ids": [],
}


def bare_head(folder, **changes) -> dict[str, torch.Tensor]:
    tensors = {
        "rows": torch.randn(16, 32) * 0.2,
        "bias": torch.randn(16),
        "bin_values": torch.linspace(0, 1, 16),
    }
    save_file(tensors, folder / "score_head.safetensors")
    (folder / "score_head.json").write_text(json.dumps({**BARE, **changes}))
    return tensors


def test_a_bare_score_head(tmp_path):
    """score_head.json and score_head.safetensors: an external head on a frozen backbone."""
    tensors = bare_head(tmp_path)
    model = tiny_model("llama")
    selector = Selector.from_pretrained(tmp_path, model)
    for name, tensor in tensors.items():
        assert torch.equal(getattr(selector, name), tensor)
    assert (selector.prior_weight, selector.bin_temperature) == (0.1105, 1.0)
    assert selector.reserved_ids == () and selector.adapted_model is None
    assert selector.base_model["name"] == "tiny llama"
    assert selector.calibrations == {"entropy": Calibration(1.801, 0.01)}
    assert selector.decoding == S2TConfig(k=8, trigger="entropy")
    selector.save_pretrained(tmp_path / "native")
    loaded = Selector.from_pretrained(tmp_path / "native", model)
    assert torch.equal(generated(model, loaded), generated(model, selector))
    assert loaded.calibrations == selector.calibrations


def test_a_bare_score_head_that_is_broken(tmp_path):
    bare_head(tmp_path, num_bins=8)
    assert message(tmp_path) == (
        "load_selector: score_head.safetensors must have 8 rows, as its configuration says, got 16"
    )
    bare_head(tmp_path)
    (tmp_path / "score_head.json").write_text("{")
    assert message(tmp_path).startswith("load_selector: score_head.json must be valid JSON, got ")
    bare_head(tmp_path)
    (tmp_path / "score_head.safetensors").unlink()
    assert message(tmp_path, kind=FileNotFoundError) == (
        f"load_selector: score_head.safetensors must be in the checkpoint, got none in {tmp_path}"
    )
    wide = type(tiny_model("llama").config)(hidden_size=64, num_attention_heads=4, vocab_size=50)
    bare_head(tmp_path)
    assert message(tmp_path, build_model(wide)) == (
        "generate: selector must have rows of the model's hidden size 64, got 32"
    )
