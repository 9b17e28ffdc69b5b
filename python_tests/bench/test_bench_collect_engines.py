"""bench/bench_collect_engines.py: labels that disagree are refused. Stages: python_tests/vllm."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "bench_collect_engines.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_collect_engines", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(probs=(0.5, 0.25), candidates=(3, 4)):
    group = {"step": 0, "candidates": list(candidates), "teacher_probs": list(probs), "kl": 0.1}
    return {"0": {"groups": [group]}}


def test_labels_that_disagree_are_refused(bench):
    answer = bench.compare_labels(record(), record((0.5, 0.25005)))
    assert answer["largest_difference_of_probability"] == pytest.approx(5e-5)
    assert answer["steps"] == 1
    for other, message in (
        (record((0.5, 0.2502)), "1 of 2 probabilities differ by 0.0001 or more"),
        (record((float("nan"), 0.25)), "1 of 2 probabilities differ by 0.0001 or more"),
        (record(candidates=(3, 5)), "trajectory 0, step 0: candidates"),
        ({}, "labels of 1 and 0 trajectories"),
    ):
        with pytest.raises(ValueError, match=message):
            bench.compare_labels(record(), other)
