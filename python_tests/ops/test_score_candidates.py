"""score_candidates against its reference in float64, and the promise of equal bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2t_ext import ops, reference
from s2t_ext.testing import (
    DTYPES,
    SCORE_CASES,
    ScoreCase,
    assert_close,
    assert_same_bits,
    same_everywhere,
)

INF, NAN = math.inf, math.nan


def score(hidden, head):
    return same_everywhere(lambda: ops.score_candidates(hidden, **head))


@pytest.mark.parametrize("case", SCORE_CASES, ids=str)
def test_equals_the_reference(case):
    hidden, head = case.hidden().flatten(0, 1), case.head()
    expected = reference.score_candidates(hidden, **head)
    assert_close(score(hidden, head), expected, case.hidden_dtype)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_the_reference_on_made_inputs(data):
    draw = data.draw
    case = ScoreCase(
        batch=1,
        k=draw(st.integers(1, 9)),
        hidden_size=draw(st.integers(1, 200)),
        num_bins=draw(st.integers(1, 64)),
        hidden_dtype=draw(st.sampled_from(DTYPES)),
        rows_dtype=draw(st.sampled_from(DTYPES)),
        has_bias=draw(st.booleans()),
        bin_temperature=draw(st.floats(0.05, 20)),
        logit_scale=draw(st.floats(-3, 3)),
        softcap=draw(st.none() | st.floats(0.5, 50)),
        seed=draw(st.integers(0, 2**20)),
    )
    hidden, head = case.hidden()[0], case.head()
    head["bin_values"] = head["bin_values"] * draw(st.floats(-2, 2))
    # The error of a softmax grows with its largest argument, which is rounded relative to its size.
    sharpness = max(1.0, 12 / case.bin_temperature * max(1.0, abs(case.logit_scale)))
    expected = reference.score_candidates(hidden, **head)
    error = (score(hidden, head).double() - expected.double()).abs().max().item()
    assert error <= 1e-6 * sharpness, f"{case}: error {error}"


def test_a_candidate_has_the_same_bits_alone_and_in_any_company():
    case = ScoreCase(batch=7, k=9, hidden_size=100, hidden_dtype=torch.bfloat16)
    hidden, head = case.hidden().flatten(0, 1), case.head()
    together = score(hidden, head)
    order = torch.randperm(hidden.shape[0])
    assert_same_bits(score(hidden[order], head), together[order], "permuted")
    for n in (0, 1, 5, 62):
        alone = ops.score_candidates(hidden[n : n + 1], **head)
        assert_same_bits(alone, together[n : n + 1], f"candidate {n} alone")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", range(4))
def test_takes_any_stride_and_alignment(dtype, offset):
    case = ScoreCase(hidden_size=70, hidden_dtype=dtype, rows_dtype=dtype)
    hidden, head = case.hidden().flatten(0, 1), case.head()
    expected = score(hidden, head)

    def strided(x):  # every row starts `offset` elements later than the last row's end, amid NaN
        room = x.new_full((x.shape[0], x.shape[1] + 2 * offset + 1), NAN)
        room[:, offset : offset + x.shape[1]] = x
        return room[:, offset : offset + x.shape[1]]

    hidden, head["rows"] = strided(hidden), strided(head["rows"])
    assert not hidden.is_contiguous() and not head["rows"].is_contiguous()
    assert_same_bits(score(hidden, head), expected)


def test_takes_an_expanded_hidden_state():
    hidden, head = ScoreCase().hidden()[0, :1], ScoreCase().head()
    expanded = hidden.expand(5, -1)
    assert expanded.stride(0) == 0
    assert_same_bits(score(expanded, head), score(hidden, head).expand(5))


def test_takes_transposed_rows_and_hidden_states():
    case = ScoreCase()
    hidden, head = case.hidden().flatten(0, 1), case.head()
    expected = score(hidden, head)
    head["rows"] = head["rows"].T.contiguous().T
    assert head["rows"].stride(1) != 1
    assert_same_bits(score(hidden.T.contiguous().T, head), expected)


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_a_candidate_with_a_non_finite_state_leaves_the_others_alone(value):
    case = ScoreCase(batch=1, k=5, hidden_size=40)
    hidden, head = case.hidden()[0], case.head()
    expected = score(hidden, head)
    hidden[2, 33] = value
    result = score(hidden, head)
    assert result[2].isnan()
    others = [0, 1, 3, 4]
    assert_same_bits(result[others], expected[others])


def test_bin_logits_may_be_minus_infinity():
    hidden = torch.tensor([[1.0, 2.0]])
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    head = {"rows": rows, "bias": torch.tensor([0.0, 0.0, -INF])}
    expected = 0.5 * torch.sigmoid(torch.tensor([1.0]).double())
    assert_close(score(hidden, head), expected)
    head["bias"] = torch.full((3,), -INF)
    assert score(hidden, head).isnan().all()


def test_no_candidates_give_no_scores():
    result = ops.score_candidates(torch.empty(0, 32), torch.randn(16, 32))
    assert result.shape == (0,) and result.dtype == torch.float32


def test_hidden_size_0_scores_the_bias_alone():
    head = {"rows": torch.empty(2, 0), "bias": torch.tensor([0.0, 1.0])}
    assert_close(score(torch.empty(3, 0), head), torch.sigmoid(torch.ones(3).double()))


def test_many_candidates_on_many_threads():
    case = ScoreCase(batch=40, k=64, hidden_size=512, num_bins=20)
    hidden, head = case.hidden().flatten(0, 1), case.head()
    assert_close(score(hidden, head), reference.score_candidates(hidden, **head))


@pytest.mark.parametrize("case", SCORE_CASES, ids=str)
def test_cuda_gives_the_bits_of_the_cpu(case, cuda):
    expected = ops.score_candidates(case.hidden().flatten(0, 1), **case.head())
    actual = ops.score_candidates(case.hidden(cuda).flatten(0, 1), **case.head(cuda))
    assert_same_bits(actual, expected)
