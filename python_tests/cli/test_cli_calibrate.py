"""The command `calibrate` on a tiny saved model."""

import json

import pytest
import torch
from command_line import TEMPLATE, call, error_of
from models import build_model, make_tokenizer, tiny_model

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


def test_calibrate_finds_a_margin(folders, tmp_path):
    """Of a model that chooses, and of the selector, which keeps it."""
    for name, seed in (("chooser", 11), ("judge", 7)):
        build_model("llama", seed=seed).save_pretrained(tmp_path / name)
        make_tokenizer(TEMPLATE).save_pretrained(tmp_path / name)
    common = ("--prompts", folders / "prompts.txt", "--judge", tmp_path / "judge", "--rate", 0.6)
    asked = calibrate_command(folders, *common, "--harm-limit", 0.1, "--json")
    output = ("--output", tmp_path / "found.json")
    printed = json.loads(call(*asked, "--chooser", tmp_path / "chooser", *output)[0])
    assert printed == json.loads((tmp_path / "found.json").read_text())
    before, after = printed["before"], printed["after"]
    assert before["overrides"] > 0 and after["harmful"] <= 0.1 * after["overrides"]
    model = type(tiny_model("llama")).from_pretrained(folders / "model")
    teachers = [
        s2t_ext.Teacher.from_model(type(model).from_pretrained(tmp_path / name))
        for name in ("judge", "chooser")
    ]
    config = s2t_ext.S2TConfig(
        select="teacher", proposer="base", trigger="entropy", threshold=printed["threshold"]
    )
    expected = s2t_ext.calibrate_margin(
        model, make_tokenizer(TEMPLATE), teachers[0], ["one", "two"], config, teacher=teachers[1],
        harm_limit=0.1, max_new_tokens=12, progress=False,
    )  # fmt: skip
    assert printed == {**printed, **expected.to_dict()}

    Selector.from_pretrained(folders / "selector", model).save_pretrained(tmp_path / "s")
    printed = json.loads(call(*asked, "--selector", tmp_path / "s")[0])
    kept = Selector.from_pretrained(tmp_path / "s", model).decoding
    assert (kept.trigger, kept.override_margin) == ("entropy", printed["override_margin"])
    assert kept.k == 4


def test_calibrate_says_which_options_of_a_margin_go_together(folders):
    prompts = calibrate_command(folders, "--prompts", folders / "prompts.txt")
    for more, message in (
        (("--chooser", "c"), "--judge must be given with --chooser, got --chooser c"),
        (("--harm-limit", "0.1"), "--judge must be given with --harm-limit, got --harm-limit 0.1"),
        (
            ("--teacher-model-name", "n"),
            "--judge must be given with --teacher-model-name, got --teacher-model-name n",
        ),
        (
            ("--judge", "j"),
            "--selector or --chooser must be given with --judge, got neither",
        ),
        (
            ("--judge", "j", "--chooser", "c", "--selector", folders / "selector"),
            "--selector or --chooser must be given with --judge, got both",
        ),
        (
            ("--judge", "j", "--chooser", "http://a"),
            "--chooser must be a model or an adapter, got http://a",
        ),
        (("--harm-limit", 2), "calibrate: harm_limit must be in [0, 1], got 2.0"),
    ):
        assert error_of(*prompts, *more) == message
