"""support_kl against its reference: divergence, log-probabilities, strange values, layouts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2t_ext import ops, reference
from s2t_ext.testing import DTYPES, assert_close, assert_same_bits, same_everywhere

INF, NAN = math.inf, math.nan


def check(student_ids, student_logits, teacher_logits, candidate_ids):
    arguments = (student_ids, student_logits, teacher_logits, candidate_ids)
    actual = same_everywhere(lambda: ops.support_kl(*arguments))
    expected = reference.support_kl(*arguments)
    assert_close(actual.kl, expected.kl, what="kl")
    assert_close(actual.candidate_logprobs, expected.candidate_logprobs, what="candidate_logprobs")
    assert torch.equal(actual.teacher_argmax, expected.teacher_argmax), actual.teacher_argmax
    return actual


def normal(batch, vocab, seed, scale=3.0):
    return torch.randn(batch, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def case(batch, vocab, support=64, k=8, dtype=torch.float32, scale=3.0):
    """A student and a teacher that mostly agree; places beyond the vocabulary are empty."""
    student = normal(batch, vocab, 0, scale)
    teacher = student + normal(batch, vocab, 1, scale / 3)
    proposed = reference.propose_candidates(student, support, support)
    return proposed.ids, proposed.logits, teacher.to(dtype), proposed.ids[:, :k].contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 7, 63, 64, 65, 1023, 1024, 1025, 32_001, 151_936])
def test_every_size_of_vocabulary(vocab, dtype):
    check(*case(2, vocab, dtype=dtype))


@pytest.mark.parametrize("support", [1, 2, 31, 64])
@pytest.mark.parametrize("k", [1, 2, 63, 64])
def test_every_width(support, k):
    ids, logits, teacher, _ = case(5, 3000, support)
    check(ids, logits, teacher, torch.randint(-1, 3000, (5, k)))


@pytest.mark.parametrize("scale", [0.0, 0.01, 20.0])
def test_flat_and_sharp_distributions(scale):
    check(*case(4, 2000, scale=scale))


def test_equal_distributions_do_not_diverge():
    """Only the differences count: the teacher's logits may be shifted."""
    ids, logits, _, candidates = case(30, 2000)
    teacher = torch.zeros(30, 2000).scatter(1, ids, logits) - 3.0
    kl = check(ids, logits, teacher, candidates).kl
    assert (kl >= 0).all() and (kl < 1e-6).all()


def test_a_small_divergence_is_not_lost_in_rounding():
    """The terms are of size 1 and cancel; they are added in double."""
    ids, logits, _, candidates = case(8, 500)
    teacher = torch.full((8, 500), -30.0).scatter(1, ids, logits + normal(8, 64, 5, 1e-2))
    actual = check(ids, logits, teacher, candidates).kl
    expected = reference.support_kl(ids, logits, teacher, candidates).kl
    assert (expected < 1e-3).all()
    assert ((actual - expected).abs() < 1e-7).all()


def test_a_teacher_that_excludes_what_the_student_allows_diverges_infinitely():
    ids = torch.tensor([[0, 1], [0, 1], [0, -1]])
    student = torch.zeros(3, 2)
    teacher = torch.tensor([[0.0, -INF, 1.0], [0.0, NAN, 1.0], [0.0, -INF, 1.0]])
    assert check(ids, student, teacher, ids).kl.tolist() == [INF, INF, 0.0]


def test_a_student_that_excludes_what_the_teacher_allows_does_not():
    ids = torch.tensor([[0, 1, 2]] * 2)
    student = torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, NAN]])
    result = check(ids, student, torch.zeros(2, 3), ids)
    assert_close(result.kl, torch.full((2,), math.log(3 / 2)))


def test_empty_places():
    ids = torch.tensor([[-1, 5, -1, 2], [-1, -1, -1, -1]])
    result = check(ids, normal(2, 4, 1), normal(2, 9, 2), torch.tensor([[3, -1], [-1, 0]]))
    assert result.kl[1] == 0
    assert result.candidate_logprobs[0, 1] == -INF


def test_a_teacher_without_a_valid_token():
    ids = torch.tensor([[0, 1], [-1, -1]])
    teacher = torch.tensor([[-INF, NAN], [NAN, -INF]])
    result = check(ids, torch.zeros(2, 2), teacher, ids)
    assert result.teacher_argmax.tolist() == [-1, -1]
    assert result.kl.tolist() == [INF, 0.0]


def test_the_first_of_infinite_logits_has_all_the_mass():
    ids = torch.tensor([[4, 2, 1]])
    teacher = torch.tensor([[0.0, INF, 3.0, INF, 1.0]])
    result = check(ids, torch.tensor([[1.0, INF, INF]]), teacher, torch.tensor([[1, 3, 0]]))
    assert result.candidate_logprobs.tolist() == [[0.0, -INF, -INF]]
    assert result.teacher_argmax.tolist() == [1]
    assert result.kl.tolist() == [INF]


def test_argmax_ties_go_to_the_lowest_id():
    teacher = torch.zeros(2, 5000)
    teacher[1, [4000, 1500]] = 1.0
    ids = torch.zeros(2, 1, dtype=torch.int64)
    assert check(ids, torch.zeros(2, 1), teacher, ids).teacher_argmax.tolist() == [0, 1500]


def test_any_layout():
    ids, logits, teacher, candidates = case(6, 1500, support=12)
    wide = torch.full((6, 1501), NAN)
    wide[:, 1:] = teacher
    expected = check(ids, logits, teacher, candidates)
    for other in (wide[:, 1:], teacher.T.contiguous().T):
        assert not other.is_contiguous()
        spread = [t.repeat_interleave(2, dim=1)[:, ::2] for t in (ids, logits, candidates)]
        result = ops.support_kl(spread[0], spread[1], other, spread[2])
        for actual, wanted in zip(result, expected, strict=True):
            assert_same_bits(actual, wanted)


def test_a_row_does_not_depend_on_its_batch():
    arguments = case(9, 5000)
    together = ops.support_kl(*arguments)
    alone = ops.support_kl(*(a[4:5] for a in arguments))
    for actual, expected in zip(alone, together, strict=True):
        assert_same_bits(actual, expected[4:5])


def test_empty_batch_gives_empty_results():
    ids = torch.zeros(0, 3, dtype=torch.int64)
    result = ops.support_kl(ids, torch.zeros(0, 3), torch.zeros(0, 10), ids)
    assert [tuple(t.shape) for t in result] == [(0,), (0, 3), (0,)]


# The kernel drops student probabilities below e^-87: beside logits of 1e38 that would show.
VALUES = st.sampled_from([0.0, -0.0, 1.0, 60.0, -90.0, 1e4, -1e4, INF, -INF, NAN])


@st.composite
def calls(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, vocab = draw(st.integers(1, 4)), draw(st.integers(1, 1100))
    support, k = draw(st.integers(1, 64)), draw(st.integers(1, 64))
    palette = torch.tensor(draw(st.lists(VALUES | st.floats(-20, 20), min_size=1, max_size=9)))

    def logits(columns):
        picked = torch.randint(len(palette), (batch, columns), generator=generator)
        return palette[picked].float()

    def ids(columns):  # distinct in a row, as propose_candidates gives them
        order = torch.rand(batch, max(columns, vocab), generator=generator).argsort(1)[:, :columns]
        return torch.where(order < vocab, order, -1)

    teacher = logits(vocab).to(draw(st.sampled_from(DTYPES)))
    return ids(support), logits(support), teacher, ids(k)


@given(calls())
@settings(max_examples=60, deadline=None)
def test_anything_equals_the_reference(call):
    check(*call)
