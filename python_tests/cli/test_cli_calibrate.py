"""The command `calibrate` on a tiny saved model."""

import json

import pytest
import torch
from command_line import TEMPLATE, call, error_of
from models import make_tokenizer, tiny_model

import s2t_ext
from s2t_ext import Selector


def calibrate_command(folders, *more):
    return (
        "calibrate", "--model", folders / "model", "--dtype", "float32", "--rate", 0.1,
        "--max-new-tokens", 12, *more,
    )  # fmt: skip


def test_calibrate_prints_and_stores(folders, tmp_path):
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    expected = s2t_ext.calibrate(
        model, make_tokenizer(TEMPLATE), ["one", "two"], rate=0.1, max_new_tokens=12, progress=False
    )
    prompts = ("--prompts", folders / "prompts.txt")
    stdout, stderr = call(*calibrate_command(folders, *prompts), "--json")
    assert "of 18 steps fire, " in stderr and "more prompts make the threshold" in stderr
    assert json.loads(stdout) == {"trigger": "entropy", **expected.to_dict()}
    assert expected.tokens == 2 * 9
    selector = Selector.from_pretrained(folders / "selector", model)
    selector.decoding = None
    selector.save_pretrained(tmp_path / "s")
    lines = '{"prompt": "one"}\n\n{"question": "two"}\n'
    (tmp_path / "prompts.jsonl").write_text(lines)
    options = ("--selector", tmp_path / "s", "--prompts", tmp_path / "prompts.jsonl")
    call(*calibrate_command(folders, *options))
    call(*calibrate_command(folders, *options, "--trigger", "margin", "--no-chat"))
    stored = Selector.from_pretrained(tmp_path / "s", model)
    assert set(stored.calibrations) == {"entropy", "margin"}
    assert stored.calibrations["entropy"] == expected
    assert torch.equal(stored.rows, selector.rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "{", "line 1 must be JSON, got Expecting property name"),
        ("p.jsonl", '{"prompt": "a"}\n{"text": "b"}', 'line 2 must have "prompt" or "question"'),
        ("p.jsonl", '"a"', 'line 1 must have "prompt" or "question", got "a"'),
        ("p.jsonl", '{"prompt": 3}', 'line 1 must have "prompt" or "question", got {"prompt": 3}'),
    ],
)
def test_calibrate_names_the_line(name, content, message, folders, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    text = error_of(*calibrate_command(folders, "--prompts", path))
    assert text.startswith(f"{path}: {message}")


def test_calibrate_says_no_in_one_line(folders, tmp_path):
    nowhere = tmp_path / "no.txt"
    assert error_of(*calibrate_command(folders, "--prompts", nowhere)) == (
        f"--prompts must be a file, got {nowhere}"
    )
    prompts = ("--prompts", folders / "prompts.txt")
    assert error_of(*calibrate_command(folders, *prompts, "--selector", "me/mine")) == (
        "--selector must be a folder (the threshold is stored in it), got me/mine"
    )
    assert error_of(*calibrate_command(folders, *prompts, "--rate", 2)) == (
        "calibrate: rate must be in (0, 1), got 2.0"
    )
    (tmp_path / "empty.txt").write_text("\n")
    assert error_of(*calibrate_command(folders, "--prompts", tmp_path / "empty.txt")) == (
        "calibrate: prompts must hold at least one text, got none"
    )
