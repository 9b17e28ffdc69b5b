"""Instruction sets of the CPU kernels: each gives the same bits, and the choice obeys the user."""

import os
import subprocess
import sys

import pytest
import torch

from s2t_ext import ops
from s2t_ext.native import cpu_isa
from s2t_ext.native import library as _library
from s2t_ext.testing import DTYPES, LogitsCase, ScoreCase, assert_same_bits

pytestmark = pytest.mark.skipif(
    not _library.is_loaded(), reason="without the native library there is no instruction set"
)


def propose(dtype):
    logits = LogitsCase(2, 40_007, 8, dtype=dtype).make()
    return ops.propose_candidates(logits, 20, 64, torch.tensor([5, 1023, 1024, 40_006]))


def sample(dtype):
    logits = LogitsCase(5, 9_001, 8, dtype=dtype, distribution="normal").make()
    return ops.sample_token(
        logits,
        torch.tensor([0.0, 1.0, 0.8, 1.0, 1.3]),
        torch.tensor([0, 40, 0, 200, 0]),
        torch.tensor([1.0, 0.9, 0.97, 0.99, 1.0]),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 1e-3]),
        torch.arange(5),
        torch.arange(5),
    )


def divergence(dtype):
    student = ops.propose_candidates(LogitsCase(3, 5_000, 8).make(), 64)
    teacher = LogitsCase(3, 5_000, 8, dtype=dtype, seed=1).make()
    return ops.support_kl(student.ids, student.logits, teacher, student.ids[:, :8])


def score(dtype):
    case = ScoreCase(k=5, hidden_size=333, hidden_dtype=dtype, rows_dtype=dtype, softcap=3.0)
    return tuple(ops.score_and_select(case.hidden(), **case.head(), **case.choice()))


@pytest.mark.parametrize("operation", [propose, sample, divergence, score])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_gives_the_same_bits(operation, dtype):
    with cpu_isa.forced("scalar"):
        expected = operation(dtype)
    for isa in cpu_isa.available():
        with cpu_isa.forced(isa):
            assert cpu_isa.current() == isa
            actual = operation(dtype)
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same_bits(a, b, f"result {i} on {isa}")


def test_flushing_subnormals_changes_no_ordinary_result():
    """A setting of the thread that other libraries change."""
    logits = LogitsCase(2, 5_000, 8).make()
    expected = ops.propose_candidates(logits, 64)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        actual = ops.propose_candidates(logits, 64)
    finally:
        torch.set_flush_denormal(False)
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)


def test_scalar_is_always_there_and_first():
    assert cpu_isa.available()[0] == "scalar"
    assert cpu_isa.current() in cpu_isa.available()


PROGRAM = """
import torch
from s2t_ext import ops
print(float(ops.propose_candidates(torch.arange(3.0)[None], 1).logsumexp))
from s2t_ext import cpu_isa
print(cpu_isa.current())
"""


def run_with(isa):
    environment = {**os.environ, "S2T_EXT_FORCE_CPU_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("isa", [*cpu_isa.available(), ""])
def test_the_environment_variable_chooses(isa):
    process = run_with(isa)
    assert process.returncode == 0, process.stderr
    value, current = process.stdout.split()
    assert float(value) == pytest.approx(2.407606, abs=1e-6)
    assert current == (isa or cpu_isa.available()[-1])


@pytest.mark.parametrize("isa", ["sse9", "AVX2"])
def test_an_impossible_choice_is_an_error_that_says_what_is_possible(isa):
    process = run_with(isa)
    assert process.returncode != 0
    usable = ", ".join(cpu_isa.available())
    expected = (
        "s2t_ext: S2T_EXT_FORCE_CPU_ISA must be one of what this build and processor have "
        f"({usable}), got {isa}"
    )
    assert expected in process.stderr
