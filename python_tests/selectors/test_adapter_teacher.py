"""An adapter that only chooses, from a folder and by the name of the one that ships."""

import os

import pytest
import torch
from collecting import make_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

import s2t_ext
from s2t_ext.runs.shipped import shipped_folder

SHIPPED = "s2t_ext/qwen2.5-coder-0.5b-word-problems"
CHOOSES = s2t_ext.S2TConfig(k=4, select="teacher", proposer="base", trigger="always")
REAL = os.environ.get("S2T_EXT_QWEN_CODER", "")


def test_an_adapter_of_a_folder_chooses(tmp_path):
    """As the adapted model handed over by hand; the model alone decodes as before."""
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    options = dict(max_new_tokens=12, do_sample=False)
    greedy = make_model(1).generate(ids, **options)
    adapted = get_peft_model(make_model(1), LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    teacher = s2t_ext.Teacher.from_model(adapted)
    expected = s2t_ext.generate(adapted, ids, s2t=CHOOSES, teacher=teacher, **options)

    model = make_model(1)
    teacher = s2t_ext.adapter_teacher(tmp_path / "adapter", model)
    found = s2t_ext.generate(model, ids, s2t=CHOOSES, teacher=teacher, **options)
    assert torch.equal(found, expected) and not torch.equal(found, greedy)
    rule = "adapter_teacher: model must be a plain transformers model"
    with pytest.raises(ValueError, match=rule):
        s2t_ext.adapter_teacher(tmp_path / "adapter", model)
    with pytest.raises(
        FileNotFoundError, match=r"adapter_teacher: .* must be one of .*word-problems"
    ):
        s2t_ext.adapter_teacher("s2t_ext/nothing", make_model(1))


def test_what_ships_is_small_and_whole():
    """A rank-1 adapter in bfloat16 on the seven linear layers of each of the 24 decoder layers."""
    folder = shipped_folder(SHIPPED)
    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 24 * 7 * 2 and all(1 in w.shape for w in weights.values())
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}
    assert all(bool(w.isfinite().all()) and bool(w.any()) for w in weights.values())
    assert (folder / "adapter_model.safetensors").stat().st_size < 1_500_000
    assert SHIPPED in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="without score rows, which adapter_teacher loads: s2t"):
        s2t_ext.Selector.from_pretrained(SHIPPED, make_model(1))


@pytest.mark.skipif(not REAL, reason="S2T_EXT_QWEN_CODER names no folder of the real model")
def test_what_ships_decodes_with_its_model():
    """It chooses, and what is written makes sense."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(REAL, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(REAL)
    chat = [{"role": "user", "content": "What is 3 times 14, minus 5? Reason step by step."}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    teacher = s2t_ext.adapter_teacher(SHIPPED, model)
    s2t = s2t_ext.S2TConfig(select="teacher", proposer="base", trigger="entropy", threshold=0.135)
    output = s2t_ext.generate(
        model, **ids, s2t=s2t, teacher=teacher, max_new_tokens=140, return_dict_in_generate=True
    )
    assert output.s2t.triggers > 0
    assert "42" in tokenizer.decode(output.sequences[0, ids["input_ids"].shape[1] :])
