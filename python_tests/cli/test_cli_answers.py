"""`collect --teacher none`, and training on what it keeps."""

import json

import pytest
import torch
from collecting import PROMPTS, make_model, model_that_ends
from command_line import call, error_of
from peft import LoraConfig, get_peft_model

from s2t_ext.demo.pretrain import make_tokenizer
from s2t_ext.distillation.data.collection import Collection

FLOAT = ("--dtype", "float32")


def test_answers_without_a_teacher(tmp_path):
    """The larger model answers; what its majority agrees on is what the student is trained on."""
    pytest.importorskip("math_verify")
    for name, model in (("student", make_model(1)), ("large", model_that_ends(2))):
        model.save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    command = (
        "collect", "--model", tmp_path / "large", "--teacher", "none", "--prompts",
        tmp_path / "prompts.txt", "--max-new-tokens", 30, "--no-chat", *FLOAT,
    )  # fmt: skip
    rule = "--keep majority must come with --rollouts of 3 or more, got 1"
    assert error_of(*command, "--output", tmp_path / "no", "--keep", "majority") == rule
    rule = "--keep right must come with a --task, whose answers are known, got none"
    assert error_of(*command, "--output", tmp_path / "no", "--keep", "right") == rule
    rule = "--teacher-topk must be left out with --teacher none, got 4"
    assert error_of(*command, "--output", tmp_path / "no", "--teacher-topk", 4) == rule
    rule = "--teacher-model-name must be left out with --teacher none, got large"
    named = ("--teacher-model-name", "large")
    assert error_of(*command, "--output", tmp_path / "no", *named) == rule
    for option, value in (("--k", "4"), ("--share", "0.2"), ("--steps", "entropy")):
        rule = f"{option} must be left out with --teacher none, got {value}"
        assert error_of(*command, "--output", tmp_path / "no", option, value) == rule
    labelled = [*command, "--output", tmp_path / "no", "--keep", "right"]
    labelled[4] = tmp_path / "student"
    assert error_of(*labelled).startswith("--keep must come with --teacher none, got")
    assert not (tmp_path / "no").exists()

    sampled = ("--rollouts", 4, "--temperature", 1.0, "--batch-size", 8, "--held-out", 0.3)
    stdout, _ = call(*command, *sampled, "--output", tmp_path / "answers", "--json")
    counts = json.loads(stdout)
    assert counts["asked"] == 4 * len(PROMPTS)
    assert counts["train"]["trajectories"] > 0 and counts["train"]["groups"] == 0
    kept = (*sampled, "--keep", "majority", "--output", tmp_path / "majority", "--json")
    stdout, _ = call(*command, *kept)
    found = [Collection(tmp_path / name) for name in ("majority", "answers")]
    some, every = ({t.key for t in c.trajectories("train")} for c in found)
    assert some <= every
    stdout, _ = call(
        "distill", "--model", tmp_path / "student", "--collection", tmp_path / "answers",
        "--output", tmp_path / "run", "--objective", "tokens", "--sft-weight", 1.0,
        "--epochs", 1, "--lora-r", 2, "--json", *FLOAT,
    )  # fmt: skip
    assert json.loads(stdout)["nll"] > 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_an_adapter_that_ships_is_a_teacher(tmp_path, monkeypatch):
    """By its name, merged into a copy of the student; a selector's name is none of a teacher."""
    from s2t_ext.runs import shipped

    make_model(1).save_pretrained(tmp_path / "student")
    make_tokenizer().save_pretrained(tmp_path / "student")
    adapted = get_peft_model(make_model(1), LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    make_tokenizer().save_pretrained(tmp_path / "merged")
    monkeypatch.setattr(
        shipped, "shipped_selectors", lambda: {"s2t_ext/tiny": tmp_path / "adapter"}
    )
    command = (
        "generate", "--model", tmp_path / "student", "--prompt", "2 + 3", "--no-chat", "--trigger",
        "always", "--max-new-tokens", 12, "--json", *FLOAT,
    )  # fmt: skip
    found = [
        json.loads(call(*command, "--teacher", teacher)[0])[0]
        for teacher in ("s2t_ext/tiny", tmp_path / "merged")
    ]
    assert found[0]["text"] == found[1]["text"]
    assert found[0]["changed_tokens"] == found[1]["changed_tokens"] > 0
    assert "s2t_ext/other" in error_of(*command, "--teacher", "s2t_ext/other")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    rule = "--teacher must be a model or an adapter, got the selector s2t_ext/tiny"
    assert error_of(*command, "--teacher", "s2t_ext/tiny") == rule
