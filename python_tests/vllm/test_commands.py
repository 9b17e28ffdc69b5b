"""The command line with `--engine vllm`."""

import json
import subprocess
import sys

import pytest
from vllm_engine import environment

pytestmark = pytest.mark.vllm

PROMPTS = ["Once upon a time", "2 + 2 =", "A much longer question, past the border of a block?"]


def run(*arguments):
    """A command in a process of its own."""
    command = [sys.executable, "-m", "s2t_ext", *map(str, arguments)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)


def trajectories(folder):
    """Number -> (split, trajectory) of a collection."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return {record["key"]: record for record in map(json.loads, lines)}


def test_collect(tiny, sliding, tmp_path):
    """Greedy rollouts of both engines are the same, and so are their labels."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    options = ["--model", tiny.folder, "--teacher", sliding.folder, "--prompts", prompts]
    options += ["--dtype", "float32", "--max-new-tokens", 12, "--k", 4, "--share", 0.5]
    in_engine = ["--engine", "vllm", "--engine-options", '{"enforce_eager": true}']
    for name, engine in (("transformers", []), ("vllm", in_engine)):
        done = run("collect", *options, *engine, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr[-3000:]
    expected, found = (trajectories(tmp_path / name) for name in ("transformers", "vllm"))
    assert found.keys() == expected.keys() and len(found) == len(PROMPTS)
    for key, record in found.items():
        assert record["response"] == expected[key]["response"]
        assert record["groups"] == expected[key]["groups"]
    settings = json.loads((tmp_path / "vllm" / "manifest.json").read_text())["settings"]
    assert settings["engine"] == "vllm"

    done = run("collect", *options, "--output", tmp_path / "vllm")
    assert done.returncode == 2 and "differs in engine (vllm, now None)" in done.stderr


def test_what_an_engine_cannot_do_is_refused(tiny, sliding, tmp_path):
    options = ["--model", tiny.folder, "--teacher", sliding.folder, "--task", "gsm_symbolic"]
    options += ["--output", tmp_path / "none", "--engine", "vllm"]
    for more, message in (
        (["--policy", "s2t"], "--policy must ask no teacher and no base with --engine vllm"),
        (["--engine-options", "[]"], "--engine-options must be a JSON object, got []"),
    ):
        done = run("collect", *options, *more)
        assert done.returncode == 2 and message in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "none").exists()
