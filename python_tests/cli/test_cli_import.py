"""The command `import-checkpoint` on a tiny saved model."""

import torch
from command_line import call, error_of
from models import add_adapter, build_model, tiny_model

from s2t_ext import Selector
from s2t_ext.hf.identity import describe_base_model


def test_import_a_selector_that_knows_no_model(folders, tmp_path):
    rows = torch.randn(16, 32)
    Selector(rows, prior_weight=0.25).save_pretrained(tmp_path / "in")
    output = tmp_path / "out"
    model = ("--model", folders / "model", "--dtype", "float32")
    stdout, _ = call("import-checkpoint", tmp_path / "in", output, *model)
    assert stdout.startswith("Selector(bins=16, hidden_size=32, prior_weight=0.25, ")
    assert stdout.endswith(f" -> {output}\n")
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    loaded = Selector.from_pretrained(output, model)
    assert torch.equal(loaded.rows, rows)
    assert loaded.base_model == describe_base_model(model)


def test_import_a_research_adapter(folders, tmp_path):
    adapted = add_adapter(build_model("llama"), save_head=True)
    adapted.save_pretrained(tmp_path / "adapter")
    output = tmp_path / "out"
    command = ("import-checkpoint", tmp_path / "adapter", output, "--model", folders / "model")
    assert error_of(*command, "--reserved-ids", "80,x") == (
        "--reserved-ids must be comma-separated numbers, got 80,x"
    )
    assert "leaves fewer than 16 rows unused" in error_of(*command)
    assert not output.exists()
    call(*command, "--dtype", "float32", "--reserved-ids", "80,81, 82")
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    loaded = Selector.from_pretrained(output, model)
    assert loaded.reserved_ids == (80, 81, 82) and loaded.adapted_model is not None
    head = adapted.get_base_model().lm_head.modules_to_save["default"].weight
    assert torch.equal(loaded.rows, head[80:83])
