"""Selectors in a form that is not ours: the released research code's."""

import pytest
import torch
from checkpoint_cases import generated, message
from models import add_adapter, build_model, make_tokenizer, prompts, tiny_model

from s2t_ext import Selector
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
