"""What a command leaves behind where `adapt` goes on with others: no engine and no model."""

import gc
import itertools
import json
import sys
import types
import weakref
from importlib.machinery import ModuleSpec

import pytest
import transformers
from command_line import call
from typer.testing import CliRunner

from s2t_ext.cli import app
from s2t_ext.cli.adapting.stages import Adaptation
from s2t_ext.demo import ASSETS
from s2t_ext.demo.problems import problems

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


RECIPE = """
learn_from: labels
dtype: float32
use_chat_template: false
max_new_tokens: 56
distill: {method: rows, epochs: 1}
evaluate: {policy: [greedy, s2t-local]}
"""


def test_a_stage_begins_without_the_models_of_the_one_before(tmp_path, monkeypatch):
    def load(*arguments, **options):
        model = from_pretrained(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model

    def invoke(self, stage, given):
        alive.append(sum(model() is not None for model in loaded))
        return run(self, stage, given)

    loaded, alive = [], []
    from_pretrained, run = transformers.AutoModelForCausalLM.from_pretrained, Adaptation._invoke
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(Adaptation, "_invoke", invoke)
    recipe, task = tmp_path / "recipe.yaml", tmp_path / "task.jsonl"
    recipe.write_text(RECIPE)
    rows = [
        {"question": p.prompt, "answer": str(p.answer), "instruction": ""}
        for p in itertools.islice(problems("distill", 0), 24)
    ]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = ("--model", ASSETS / "student", "--teacher", ASSETS / "teacher")
    gc.disable()  # when it runs by itself is chance
    try:
        call("adapt", *models, "--prompts", task, "--config", recipe, "--output", tmp_path / "run")
    finally:
        gc.enable()
    assert len(loaded) >= 3 and alive == [0] * 3
