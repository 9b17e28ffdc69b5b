"""The commands that decode, calibrate and import, on tiny models saved to a folder."""

import json

import pytest
import torch
from models import make_selector
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner
from words import save_pair

from s2t_ext.checkpoint import describe_base_model
from s2t_ext.cli import app
from s2t_ext.config import CONFIG_NAME


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(student, selector) folders."""
    root = tmp_path_factory.mktemp("models")
    student, _ = save_pair(root)
    model = AutoModelForCausalLM.from_pretrained(student)
    selector = make_selector(model)
    selector.base_model = describe_base_model(model)
    selector.save_pretrained(root / "selector")
    return student, root / "selector"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_generate_prints_text_and_writes_a_trace(folders, tmp_path):
    student, selector = folders
    trace = tmp_path / "trace.jsonl"
    result = run(
        "generate", "--model", student, "--selector", selector, "--prompt", "w5 w6 w7", "--trigger",
        "always", "--max-new-tokens", 8, "--dtype", "float32", "--color", "--trace", trace,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert lines[0]["kind"] == "summary" and lines[0]["steps"] == len(lines[1]["tokens"])
    assert lines[1]["triggered_steps"] == list(range(3, lines[0]["steps"]))
    assert "\033[4" in result.output  # choices are coloured


def test_generate_without_a_selector_is_plain_decoding(folders):
    student, _ = folders
    result = run(
        "generate", "--model", student, "--prompt", "w5 w6", "--max-new-tokens", 4, "--dtype",
        "float32", "--sample", "--temperature", 0.8,
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_expected_errors_are_one_line(folders, tmp_path):
    student, _ = folders
    missing = tmp_path / "none"
    missing.mkdir()
    result = run("generate", "--model", student, "--selector", missing, "--prompt", "w5")
    assert result.exit_code == 2
    assert f"must hold {CONFIG_NAME}" in result.output.replace("\n", "")


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_calibrate_stores_the_threshold(folders, tmp_path, suffix):
    student, selector = folders
    prompts = tmp_path / f"prompts.{suffix}"
    texts = ["w5 w6 w7", "w8 w9"]
    lines = [json.dumps({"prompt": text}) if suffix == "jsonl" else text for text in texts]
    prompts.write_text("\n".join(lines))
    result = run(
        "calibrate", "--model", student, "--prompts", prompts, "--selector", selector, "--rate",
        0.25, "--max-new-tokens", 12, "--dtype", "float32",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    stored = json.loads((selector / CONFIG_NAME).read_text())["calibration"]["entropy"]
    assert stored["tokens"] > 0 and abs(stored["rate"] - 0.25) < 0.15


def test_bad_prompts_are_named_by_line(folders, tmp_path):
    student, _ = folders
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "w5"}\n{"text": "w6"}\n')
    result = run("calibrate", "--model", student, "--prompts", prompts)
    assert result.exit_code == 2 and "line 2 must have" in result.output


def test_import_checkpoint_writes_a_selector_folder(folders, tmp_path):
    student, selector = folders
    output = tmp_path / "imported"
    result = run(
        "import-checkpoint", selector, output, "--model", student, "--dtype", "float32"
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    content = json.loads((output / CONFIG_NAME).read_text())
    assert content["base_model"] == describe_base_model(model)
