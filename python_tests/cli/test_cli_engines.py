"""An engine that the command line starts ends with its command: `adapt` goes on with others."""

import json
import sys
import types
from importlib.machinery import ModuleSpec

import pytest
from typer.testing import CliRunner

from s2t_ext.cli import app
from s2t_ext.demo import ASSETS

MODEL = ("--model", ASSETS / "student", "--dtype", "float32", "--no-use-chat-template")
COMMANDS = {
    "collect": ("collect", *MODEL, "--teacher", ASSETS / "teacher", "--prompts"),
    "answers": (
        "collect",
        *MODEL,
        "--teacher",
        "none",
        "--keep",
        "right",
        "--problems",
        1,
        "--task",
    ),
    "evaluate": ("evaluate", *MODEL, "--policy", "greedy", "--task"),
}


class Engine:
    """As much of `vllm.LLM` as the command line touches itself; it cannot generate."""

    running = 0

    def __init__(self, model, **options):
        Engine.running += 1
        self.llm_engine = self.engine_core = self

    def shutdown(self):
        Engine.running -= 1

    def get_default_sampling_params(self):
        assert Engine.running > 0
        raise ValueError("this engine only starts and ends")


@pytest.fixture
def vllm(monkeypatch):
    """An engine in place of vLLM's, on a CPU."""
    module, platforms = types.ModuleType("vllm"), types.ModuleType("vllm.platforms")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM = Engine
    platforms.current_platform = types.SimpleNamespace(is_cpu=lambda: True)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(Engine, "running", 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_engine_ends_with_its_command(vllm, tmp_path, command):
    file = tmp_path / "task.jsonl"
    file.write_text(json.dumps({"question": "2 + 2", "prompt": "2 + 2", "answer": "4"}) + "\n")
    arguments = (*COMMANDS[command], file, "--engine", "vllm", "--output", tmp_path / "out")
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2 and "this engine only starts and ends" in result.stderr
    assert Engine.running == 0
