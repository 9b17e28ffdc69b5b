"""Folders that the commands load as models."""

import torch
from collecting import make_model
from peft import LoraConfig, LoraModel, get_peft_model
from transformers import AutoModelForCausalLM

from s2t_ext.cli.common import load_model
from s2t_ext.demo.pretrain import make_tokenizer


def test_an_adapter_of_a_quantised_model(tmp_path, monkeypatch):
    """Weights of whole numbers take no gradient."""
    make_model(1).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    make_tokenizer().save_pretrained(tmp_path / "adapter")
    merge = LoraModel.merge_and_unload

    def merged(*arguments, **options):
        model = merge(*arguments, **options)
        packed = torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
        model.register_parameter("packed", packed)
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", merged)
    model, _ = load_model(str(tmp_path / "adapter"), "float32")
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["packed"]
