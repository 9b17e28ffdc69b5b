"""propose_candidates against its reference: order, statistics, strange values, memory layouts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2t_ext import ops, reference
from s2t_ext.testing import (
    DTYPES,
    LOGITS_CASES,
    LogitsCase,
    assert_close,
    assert_same_bits,
    same_everywhere,
    threads,
)

INF, NAN = math.inf, math.nan
CHUNK = 1024  # the kernels cut rows here


def check(logits, k, support=64, blocked_ids=None):
    """Result on every instruction set and thread count: equal bits, and equal to the reference."""
    actual = same_everywhere(lambda: ops.propose_candidates(logits, k, support, blocked_ids))
    expected = reference.propose_candidates(logits, k, support, blocked_ids)
    assert torch.equal(actual.ids, expected.ids), f"ids {actual.ids} are not {expected.ids}"
    assert_same_bits(actual.logits, expected.logits, "logits")
    assert torch.equal(actual.status, expected.status), f"status {actual.status}"
    for name in ("logsumexp", "support_entropy", "full_entropy"):
        assert_close(getattr(actual, name), getattr(expected, name), what=name)
    return actual


def normal(batch, vocab, scale=3.0, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, vocab, generator=generator) * scale).to(dtype)


# ---- ordinary rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LOGITS_CASES, ids=str)
def test_shared_cases(case):
    check(case.make(), case.k, case.support)


VOCABS = (1, 7, 63, 64, 65, 1023, 1024, 1025, 32_001, 50_257, 128_257, 151_936, 262_144)


@pytest.mark.parametrize("vocab", VOCABS)
def test_every_size_of_vocabulary(vocab):
    for dtype in DTYPES if vocab < 100_000 else (torch.bfloat16,):
        check(normal(2, vocab, dtype=dtype), 8)


def test_every_k():
    logits = normal(2, 3000).round()  # many ties
    for k in range(1, 65):
        check(logits, k, support=64 if k % 2 else k)


@pytest.mark.parametrize("support", [0, 5, 8, 63, 64])
def test_every_kind_of_support(support):
    check(normal(3, 2500), 5, support)


def test_empty_batch_gives_empty_results():
    result = ops.propose_candidates(torch.zeros(0, 50), 8)
    assert [tuple(t.shape) for t in result] == [(0, 8), (0, 8), (0,), (0,), (0,), (0,)]


# ---- order and ties ------------------------------------------------------------------------------


def test_ties_at_the_last_rank_go_to_the_lowest_ids():
    logits = torch.full((1, 5000), 1.0)
    logits[0, 4000:4005] = 2.0
    assert check(logits, 8).ids.tolist() == [[4000, 4001, 4002, 4003, 4004, 0, 1, 2]]


def test_negative_zero_equals_zero_and_comes_out_as_zero():
    result = check(torch.tensor([[-0.0, 0.0, -0.0, -1.0]]), 4)
    assert result.ids.tolist() == [[0, 1, 2, 3]]
    assert not result.logits[0, :3].signbit().any()


@pytest.mark.parametrize("place", [0, CHUNK - 70, CHUNK, 3 * CHUNK - 64])
def test_all_winners_side_by_side(place):
    logits = normal(1, 4 * CHUNK + 3)
    logits[0, place : place + 64] = 20.0 + torch.arange(64) * 0.125
    assert check(logits, 64).ids.tolist() == [list(range(place + 63, place - 1, -1))]


def test_ascending_and_descending_rows():
    ascending = torch.arange(10_000.0)[None] / 100
    check(torch.cat((ascending, ascending.flip(1))), 64)


def test_neighbouring_floats_are_told_apart():
    bits = 0x41A00000 + torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    check(bits.int().view(torch.float32)[None], 64)


def test_subnormal_logits_keep_their_order():
    bits = torch.randperm(3000, generator=torch.Generator().manual_seed(0)) - 1500
    check(torch.where(bits < 0, bits.abs() | -(2**31), bits).int().view(torch.float32)[None], 64)


# ---- strange values ------------------------------------------------------------------------------

SIZES = (5, CHUNK, 2 * CHUNK + 9)


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("value", [NAN, INF, -INF, torch.finfo().min, torch.finfo().max])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strange_values_stay_in_their_rows(vocab, value, dtype):
    logits = normal(6, vocab, dtype=dtype)
    alone = ops.propose_candidates(logits[5:], 4)
    logits[0, 0] = value
    logits[1, vocab // 2] = value
    logits[2, -1] = value
    logits[3] = value
    logits[4, ::2] = value
    result = check(logits, 4)
    for field, unharmed in zip(result, alone, strict=True):
        assert_same_bits(field[5:], unharmed, "the row with no strange value")


def test_a_row_without_a_valid_token():
    logits = torch.tensor([[-INF] * 3, [NAN] * 3, [NAN, -INF, NAN]])
    result = check(logits, 2)
    assert result.ids.tolist() == [[-1, -1]] * 3
    assert result.logsumexp.tolist() == [-INF] * 3
    assert result.full_entropy.tolist() == [0.0] * 3
    empty, nan = reference.STATUS_NO_VALID_TOKEN, reference.STATUS_NAN_SEEN
    few = reference.STATUS_FEWER_THAN_K
    assert result.status.tolist() == [empty | few, empty | few | nan, empty | few | nan]


def test_one_valid_token_has_no_entropy():
    logits = torch.full((1, 3000), -INF)
    logits[0, 1234] = -7.25
    result = check(logits, 3)
    assert result.ids.tolist() == [[1234, -1, -1]]
    assert result.logsumexp.tolist() == [-7.25]
    assert result.support_entropy.tolist() == result.full_entropy.tolist() == [0.0]


def test_huge_differences_do_not_overflow():
    low, high = torch.finfo().min, torch.finfo().max
    result = check(torch.tensor([[high, low, high, 0.0], [low, low, -INF, low]]), 4)
    assert_close(result.full_entropy, torch.tensor([2.0, 3.0]).log())


def test_exponentials_are_accurate_for_every_difference():
    d = -torch.linspace(0, 90, 4001)
    result = check(torch.stack((torch.zeros_like(d), d), dim=1), 2)
    p = torch.sigmoid(d.double())  # of the second entry
    entropy = -(p * p.log() + (1 - p) * torch.log1p(-p))
    assert_close(result.full_entropy, entropy.nan_to_num(0))
    assert_close(result.support_entropy, entropy.nan_to_num(0))


# ---- blocked ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [70, CHUNK, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocked_ids_count_nowhere(vocab, dtype):
    logits = normal(3, vocab, dtype=dtype)
    blocked = torch.cat((logits[0].topk(40).indices, torch.tensor([0, vocab - 1, 0])))
    logits[1, blocked[0]] = NAN  # a blocked NaN is not looked at
    logits[2, blocked[0]] = INF
    result = check(logits, 8, blocked_ids=blocked)
    assert not torch.isin(result.ids, blocked).any()
    assert result.status.tolist() == [0, 0, 0]


def test_all_ids_blocked():
    result = check(normal(2, 64), 4, blocked_ids=torch.arange(64))
    assert (result.ids == -1).all()


def test_blocked_ids_of_any_stride():
    blocked = torch.arange(20).view(10, 2)[:, 1]
    assert not blocked.is_contiguous()
    check(normal(2, 30), 8, blocked_ids=blocked)


# ---- memory layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", range(8))
def test_any_alignment_gives_the_same_bits(offset, dtype):
    logits = normal(3, 2 * CHUNK + 5, dtype=dtype)
    expected = check(logits, 16)
    storage = torch.full((3 * (logits.shape[1] + 3) + 8,), NAN, dtype=dtype)
    shifted = storage.as_strided(logits.shape, (logits.shape[1] + 3, 1), offset)
    shifted.copy_(logits)
    for actual, wanted in zip(ops.propose_candidates(shifted, 16), expected, strict=True):
        assert_same_bits(actual, wanted, f"offset {offset}")


def test_layouts_that_are_not_rows_of_consecutive_elements():
    base = normal(50, 40)
    for logits in (base.T, base[:, ::2], base[::3], base[:1].expand(4, 40), base[:, 5:30]):
        check(logits, 4)
    assert not base.T.is_contiguous()


def test_rows_beyond_two_to_the_31_elements():
    vocab, stride = 100, 2**31 + 7
    storage = torch.empty(stride + vocab, dtype=torch.bfloat16)  # only two rows of it are touched
    logits = storage.as_strided((2, vocab), (stride, 1))
    logits.copy_(normal(2, vocab))
    check(logits, 8)


# ---- invariance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_batch(dtype):
    logits = normal(21, 9000, dtype=dtype)
    together = ops.propose_candidates(logits, 32)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(1))
    for result, rows in (
        (ops.propose_candidates(logits[order], 32), order),
        (ops.propose_candidates(logits[4:5], 32), torch.tensor([4])),
        (ops.propose_candidates(logits[3:6], 32), torch.arange(3, 6)),
    ):
        for actual, expected in zip(result, together, strict=True):
            assert_same_bits(actual, expected[rows])


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(batch):
    logits = LogitsCase(batch, 70_000, 8).make()
    expected = ops.propose_candidates(logits, 64)
    for count in (1, 2, 3, 4, 7, 16):
        with threads(count):
            for actual, wanted in zip(ops.propose_candidates(logits, 64), expected, strict=True):
                assert_same_bits(actual, wanted, f"{count} threads")


# ---- anything ------------------------------------------------------------------------------------

VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, 1.5, -2.0, 20.0, -50.0, 1e-40, 3e38, -3e38, INF, -INF, NAN]
) | st.floats(-30, 30, width=32)


@st.composite
def calls(draw):
    k = draw(st.integers(1, 64))
    palette = torch.tensor(draw(st.lists(VALUES, min_size=1, max_size=12)))
    vocab = draw(st.integers(1, 3 * CHUNK))
    batch = draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = palette[torch.randint(len(palette), (batch, vocab), generator=generator)]
    if draw(st.booleans()):  # few ties
        logits = logits + torch.randn(batch, vocab, generator=generator)
    blocked = draw(st.none() | st.lists(st.integers(0, vocab - 1), max_size=64))
    return (
        logits.to(draw(st.sampled_from(DTYPES))),
        k,
        draw(st.just(0) | st.integers(k, 64)),
        None if blocked is None else torch.tensor(blocked, dtype=torch.int64),
    )


@given(calls())
@settings(max_examples=60, deadline=None)
def test_anything_equals_the_reference(call):
    check(*call)
