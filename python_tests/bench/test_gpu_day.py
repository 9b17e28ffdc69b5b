"""bench/gpu_day.py: its dry run on the CPU, and what it does with a stage that fails or hangs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu_day.py"


@pytest.fixture(scope="module")
def gpu_day():
    spec = importlib.util.spec_from_file_location("gpu_day", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_day"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_day"]


def statuses(folder):
    lines = (folder / "stages.jsonl").read_text().splitlines()
    return {row["stage"]: row["status"] for row in map(json.loads, lines)}


def test_the_dry_run_passes_and_fills_the_table(tmp_path):
    command = [sys.executable, str(SCRIPT), "--dry-run", "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert set(statuses(tmp_path).values()) == {0}
    table = (tmp_path / "table.md").read_text()
    for said in (
        "| propose_candidates | 2 | bfloat16 |",
        "tree step, boolean mask",
        "| tiny | 2 |",
    ):
        assert said in table
    kernels = [json.loads(x) for x in (tmp_path / "kernels.jsonl").read_text().splitlines()]
    assert not [row for row in kernels if "error" in row]


def test_bits_that_differ_fail(gpu_day, tmp_path):
    """The comparison itself: a device whose results are the CPU's with one bit changed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bits, torch\n"
        "a = torch.ones(3); b = a.clone(); b[1] = 1.0000001\n"
        "sys.exit(0 if bits._same('same', a, a) and not bits._same('other', b, a) else 1)"
    )
    command = [sys.executable, "-c", code, str(gpu_day.SCRIPTS)]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_stage_that_hangs_is_ended_and_the_next_one_runs(gpu_day, tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    stages = [gpu_day.Stage("hangs", sleep, 0.5), gpu_day.Stage("next", [sys.executable, "-V"], 30)]
    assert not gpu_day.run(stages, tmp_path, {}, 60)
    assert statuses(tmp_path) == {"hangs": "timeout", "next": 0}


def test_nothing_runs_after_a_needed_stage_that_fails(gpu_day, tmp_path):
    fails = [sys.executable, "-c", "import sys; print('why'); sys.exit(3)"]
    stages = [
        gpu_day.Stage("build", fails, 30, needed=True),
        gpu_day.Stage("next", [sys.executable, "-V"], 30),
    ]
    assert not gpu_day.run(stages, tmp_path, {}, 60)
    assert statuses(tmp_path) == {"build": 3}


def test_a_missing_tool_is_said(gpu_day, tmp_path):
    assert not gpu_day.run([gpu_day.Stage("tool", ["no-such-tool"], 5)], tmp_path, {}, 60)
    assert statuses(tmp_path) == {"tool": "no no-such-tool on PATH"}


def test_the_stages_of_a_gpu_name_files_that_exist(gpu_day, tmp_path):
    for stage in gpu_day.gpu_stages(tmp_path, tmp_path):
        for argument in stage.command:
            if argument.endswith((".py", ".toml")):
                assert Path(argument).is_file(), argument
