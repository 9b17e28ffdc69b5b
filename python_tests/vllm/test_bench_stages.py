"""bench/bench_collect_engines.py: its stages with tiny models, and going on with a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from vllm_engine import environment

pytestmark = pytest.mark.vllm

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "bench_collect_engines.py"
PROMPTS = ["Once upon a time", "2 + 2 =", "A much longer question, past the border of a block?"]


def test_stages_and_going_on(tiny, sliding, tmp_path):
    """All four stages; then one of them again, of which a shard is missing."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    run = tmp_path / "run"
    command = [sys.executable, SCRIPT, tiny.folder, sliding.folder, "--prompts", prompts]
    command += ["--tokens", 4, "--batch-size", 2, "--output", run, "--results", tmp_path]

    def rows():
        done = subprocess.run(
            [*map(str, command)], env=environment(), capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (path,) = tmp_path.glob("collect_engines-*.json")
        found = {row["stage"]: row for row in json.loads(path.read_text())["rows"]}
        path.unlink()
        return found

    first = rows()
    assert first["rollouts of both"]["same"] == len(PROMPTS)
    assert first["labels of both"]["steps"] == 4 * len(PROMPTS)
    assert first["labels-vllm"]["trajectories"] == len(PROMPTS)

    (run / "labels-transformers.json").unlink()
    (run / "labels-transformers" / "trajectories-00001.jsonl").unlink()
    again = rows()
    assert again["labels-transformers"]["trajectories"] == 1
    assert again["labels of both"] == first["labels of both"]
