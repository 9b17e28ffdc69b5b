"""bench/*.py run, each on a tiny model and in one round: what they call must exist."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from models import build_model, make_tokenizer

BENCH = Path(__file__).resolve().parents[2] / "bench"
PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
#: Name -> arguments after the script, and the results that it writes.
SCRIPTS = {
    "tree_step": (["--prefix", "64", "--rounds", "1"], {"tree_step"}),
    "distill": (["--tokens", "30", "--groups", "4", "--repeats", "1"], {"distill"}),
    "growth": (["--axes", "k"], {"growth"}),
}
MODELS = {
    "batch": {"batch"},
    "generate": {"generate", "triggered_step", "memory"},
    "teacher": {"teacher"},
}
OPERATORS = {
    "commit_candidates",
    "copy_blocks",
    "propose_candidates",
    "random_uniform",
    "sample_token",
    "score_and_select",
    "score_candidates",
    "select_token",
    "support_kl",
}
#: Needs vLLM: python_tests/vllm and a bench of its own.
IN_VLLM = {"collect_engines", "vllm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a model whose vocabulary the benchmarks' prompts fit into."""
    config = transformers.LlamaConfig(
        vocab_size=12_000,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16_384,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    path = tmp_path_factory.mktemp("bench") / "tiny"
    build_model(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def run(command, folder, results):
    """Runs it in an environment that says how little to measure; the names of its results."""
    # The options of whoever runs these tests (such as a coverage to reach) are not the benchmarks'.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = {
        **inherited,
        "S2T_EXT_BENCH_MODEL": str(folder),
        "S2T_EXT_BENCH_TEACHER": str(folder),
        "S2T_EXT_BENCH_ROUNDS": "1",
        "S2T_EXT_BENCH_BATCH": "2",
        "S2T_EXT_BENCH_RESULTS": str(results),
    }
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(
        command, env=environment, cwd=BENCH.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    written = [json.loads(path.read_text()) for path in results.glob("*.json")]
    assert all(result["rows"] for result in written)
    return {result["benchmark"] for result in written}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(name, folder, tmp_path):
    arguments, writes = SCRIPTS[name]
    assert run([BENCH / f"bench_{name}.py", folder, *arguments], folder, tmp_path) == writes


@pytest.mark.parametrize("name", MODELS)
def test_a_benchmark_of_a_model_runs(name, folder, tmp_path):
    assert run([*PYTEST, BENCH / f"bench_{name}.py"], folder, tmp_path) == MODELS[name]


def test_the_operators_benchmarks_run(folder, tmp_path):
    files = [BENCH / f"bench_{name}.py" for name in sorted(OPERATORS)]
    assert run([*PYTEST, "-k", "not 2threads and not 64", *files], folder, tmp_path) == OPERATORS


def test_no_benchmark_is_left_out():
    found = {path.stem.removeprefix("bench_") for path in BENCH.glob("bench_*.py")}
    assert found == {*SCRIPTS, *MODELS, *OPERATORS, *IN_VLLM}
