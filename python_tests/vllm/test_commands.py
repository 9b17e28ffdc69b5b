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


def test_evaluate(tiny, tmp_path):
    """Greedy and s2t-local answers of both engines are the same, and so are their counts."""
    problems = tmp_path / "problems.jsonl"
    lines = [{"question": text, "answer": "4"} for text in PROMPTS]
    problems.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--model", tiny.folder, "--selector", tiny.selector_folder, "--task", problems]
    options += ["--dtype", "float32", "--max-new-tokens", 16, "--policy", "greedy"]
    options += ["--policy", "s2t-local", "--local-trigger", "margin", "--local-threshold", 0.2]
    # Of so few tokens a step that the prompts of the sampled answers do not fit into one.
    engine_options = '{"enforce_eager": true, "max_num_batched_tokens": 160}'
    in_engine = ["--engine", "vllm", "--engine-options", engine_options, "--policy", "maj@3"]
    for name, engine in (("transformers", []), ("vllm", in_engine)):
        done = run("evaluate", *options, *engine, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr[-3000:]

    def results(engine, policy):
        text = (tmp_path / engine / "results" / f"{policy}.jsonl").read_text()
        return {r["key"]: r for r in map(json.loads, text.splitlines())}

    for policy in ("greedy", "s2t-local"):
        expected, found = results("transformers", policy), results("vllm", policy)
        for key, result in expected.items():
            for name in ("texts", "tokens", "triggers", "changed", "truncated"):
                assert found[key][name] == result[name], (policy, key, name)
    assert sum(result["changed"] for result in found.values()) > 0
    texts = [result["texts"] for result in results("vllm", "maj@3").values()]
    assert [len(paths) for paths in texts] == [3] * len(PROMPTS)
    assert any(len(set(paths)) > 1 for paths in texts)  # the paths have seeds of their own
    settings = json.loads((tmp_path / "vllm" / "policies" / "greedy.json").read_text())
    assert settings["engine"] == "vllm"


IN_ONE_PROCESS = """
import multiprocessing, sys
from typer.testing import CliRunner
from s2t_ext.cli import app

result = CliRunner().invoke(app, sys.argv[1:])
assert result.exit_code == 0, result.output
for child in multiprocessing.active_children():
    child.join(60)  # told to end; it takes a moment
assert not multiprocessing.active_children()
"""


def test_an_engine_ends_with_its_command(tiny, tmp_path):
    """Its processes hold the weights and the cache, and `adapt` goes on with other commands."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"question": PROMPTS[0], "answer": "4"}) + "\n")
    options = ["evaluate", "--model", tiny.folder, "--task", problems, "--dtype", "float32"]
    options += ["--max-new-tokens", 4, "--policy", "greedy", "--output", tmp_path / "results"]
    options += ["--engine", "vllm", "--engine-options", '{"enforce_eager": true}']
    command = [sys.executable, "-c", IN_ONE_PROCESS, *map(str, options)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
