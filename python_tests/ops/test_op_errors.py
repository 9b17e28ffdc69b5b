"""Bad arguments of every operator: the exact message, from the kernels and from the references."""

import pytest
from op_arguments import GOOD, i64, zeros
from op_error_cases import CASES

from s2t_ext import ops, reference


@pytest.mark.parametrize("backend", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("op", GOOD)
def test_the_unchanged_arguments_are_accepted(op, backend):
    getattr(backend, op)(**GOOD[op]())


@pytest.mark.parametrize("backend", [ops, reference], ids=["ops", "reference"])
@pytest.mark.parametrize("op, changes, message", CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES])
def test_message(op, changes, message, backend):
    with pytest.raises(RuntimeError) as error:
        getattr(backend, op)(**{**GOOD[op](), **changes})
    assert str(error.value) == f"{op}: {message}"


@pytest.mark.parametrize(
    "op, argument, like",
    [
        ("propose_candidates", "blocked_ids", "logits"),
        ("score_candidates", "rows", "hidden"),
        ("score_candidates", "bias", "hidden"),
        ("score_candidates", "bin_values", "hidden"),
        ("select_token", "scores", "ids"),
        ("select_token", "triggered", "ids"),
        ("select_token", "finished", "ids"),
        ("score_and_select", "candidate_logprobs", "hidden"),
        ("sample_token", "top_p", "logits"),
        ("support_kl", "student_logits", "teacher_logits"),
        ("support_kl", "candidate_ids", "teacher_logits"),
    ],
)
def test_tensors_of_two_devices(op, argument, like):
    """By the reference: a meta tensor among the arguments takes the operator to its fake."""
    arguments = GOOD[op]()
    made = {"blocked_ids": zeros(1, dtype=i64), "bias": zeros(16), "bin_values": zeros(16)}
    arguments[argument] = {**made, **arguments}[argument].to("meta")
    with pytest.raises(RuntimeError) as error:
        getattr(reference, op)(**arguments)
    message = f"{op}: {argument} must be on the device of {like} (cpu), got meta"
    assert str(error.value) == message


def test_tensors_of_two_devices_that_have_kernels(cuda):
    arguments = GOOD["score_candidates"]()
    arguments["hidden"] = arguments["hidden"].to(cuda)
    with pytest.raises(RuntimeError) as error:
        ops.score_candidates(**arguments, bin_values=zeros(16))
    expected = "score_candidates: rows must be on the device of hidden (cuda:0), got cpu"
    assert str(error.value) == expected
