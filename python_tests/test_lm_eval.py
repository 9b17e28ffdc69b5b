"""The lm-eval wrapper decodes as `s2t_ext.generate` does."""

import pytest
import torch
from models import one_thread, prompts, tiny_model  # noqa: F401
from transformers import AutoModelForCausalLM
from words import save_pair

import s2t_ext
from s2t_ext import S2TConfig, Teacher


def test_its_model_decodes_with_a_teacher(tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval (the lm-eval extra) is not installed")
    from s2t_ext.evaluation.lm_eval_model import S2TLM

    student, teacher = save_pair(tmp_path)
    wrapped = S2TLM(
        str(student),
        teacher=str(teacher),
        trigger="random",
        threshold=0.5,
        select="teacher",
        k=4,
        s2t_seed=3,
        device="cpu",
        dtype="float32",
    )
    ids = prompts(False).ids
    actual = wrapped._model_generate(context=ids, max_length=ids.shape[1] + 8, stop=["w999"])

    config = S2TConfig(k=4, trigger="random", threshold=0.5, select="teacher")
    expected = s2t_ext.generate(
        tiny_model("llama"),
        ids,
        s2t=config,
        teacher=Teacher.from_model(AutoModelForCausalLM.from_pretrained(teacher)),
        seed=3,
        max_new_tokens=8,
        do_sample=False,
    )
    assert torch.equal(actual, expected)
