"""The CUDA kernels that read rows of logits, executed and checked on a CPU: the CPU kernels' bits.

The emulator fails on any data race, access out of bounds, uninitialised read or missing lane, so
every test here is also a test of those.
"""

import itertools
import math

import pytest
import torch
from simt_cases import (
    BATCHES,
    KS,
    SCHEDULES,
    VOCABS,
    RowCase,
    assert_same_results,
    needs_native,
    row_cases,
)

from s2t_ext import ops, reference
from s2t_ext.testing import DISTRIBUTIONS, DTYPES, assert_close

CASES = row_cases()


def test_the_cases_cover_what_they_promise():
    def seen(field: str) -> set:
        return {getattr(case, field) for case in CASES}

    assert seen("batch") == set(BATCHES) and seen("k") == set(KS) and seen("dtype") == set(DTYPES)
    assert {(c.vocab, c.schedule) for c in CASES} == {(v, s) for v in VOCABS for s in SCHEDULES}
    assert {(c.dtype, c.is_aligned) for c in CASES} == {(d, a) for d in DTYPES for a in (0, 1)}


def check_propose_candidates(simt, case: RowCase) -> None:
    simt.set_schedule(*SCHEDULES[case.schedule])
    logits = case.make()
    support = 0 if case.k == 1 else 64 if case.k % 2 == 0 else case.k
    blocked = torch.tensor([0, case.vocab - 1, case.vocab // 2, 0]) if case.batch > 1 else None
    actual = simt.propose_candidates(logits, case.k, support, blocked)
    assert_same_results(actual, ops.propose_candidates(logits, case.k, support, blocked))


@needs_native
@pytest.mark.parametrize("case", CASES, ids=str)
def test_propose_candidates_gives_the_cpu_bits(simt, case):
    check_propose_candidates(simt, case)


@needs_native
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("vocab", [vocab for vocab in VOCABS if vocab <= 1025])
def test_every_small_shape_under_every_schedule(simt, vocab, schedule):
    """All batches x all k; types and alignments take turns, so that every pair of them comes up."""
    pairs = list(itertools.product(DTYPES, (True, False)))
    shapes = list(itertools.product(BATCHES, KS))
    turn = list(SCHEDULES).index(schedule)
    for number, (batch, k) in enumerate(shapes):
        dtype, is_aligned = pairs[(number + number // len(pairs) + turn) % len(pairs)]
        check_propose_candidates(simt, RowCase(batch, vocab, k, dtype, is_aligned, schedule))


@needs_native
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("vocab", [vocab for vocab in VOCABS if vocab > 1025])
def test_every_large_batch_under_every_schedule(simt, vocab, schedule):
    """All batches; k, types and alignments take turns."""
    turn = VOCABS.index(vocab) + list(SCHEDULES).index(schedule)
    for number, batch in enumerate(BATCHES, turn):
        k, dtype = KS[number % len(KS)], DTYPES[number % len(DTYPES)]
        check_propose_candidates(simt, RowCase(batch, vocab, k, dtype, number % 4 < 2, schedule))
    # Linux gives a process 65,530 mappings; stacks of 80,000 threads must leave the most of them.
    with open("/proc/self/maps") as maps:
        assert sum(1 for _ in maps) < 30_000


def _choice_of_ids(vocab: int, batch: int, count: int) -> torch.Tensor:
    ids = torch.randint(0, vocab, (batch, count))
    return ids.masked_fill(torch.rand(batch, count) < 0.1, -1)


@needs_native
@pytest.mark.parametrize("case", row_cases((1, 65, 1025, 50_257)), ids=str)
def test_support_kl_gives_the_cpu_bits(simt, case):
    simt.set_schedule(*SCHEDULES[case.schedule])
    arguments = (
        _choice_of_ids(case.vocab, case.batch, 64),
        torch.randn(case.batch, 64),
        case.make(),
        _choice_of_ids(case.vocab, case.batch, case.k),
    )
    assert_same_results(simt.support_kl(*arguments), ops.support_kl(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
def test_propose_candidates_agrees_with_the_reference(simt, dtype):
    logits = RowCase(3, 4097, 16, dtype, False, "forward").make()
    actual = simt.propose_candidates(logits, 16, 64, None)
    expected = reference.propose_candidates(logits, 16, 64)
    assert torch.equal(actual[0], expected.ids) and torch.equal(actual[1], expected.logits)
    for value, name in zip(
        actual[2:5], ("logsumexp", "support_entropy", "full_entropy"), strict=True
    ):
        assert_close(value, getattr(expected, name), dtype, name)


# ---- what must not change a bit ------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 32])
def test_the_split_of_a_row_does_not_change_a_bit(simt, blocks):
    logits = RowCase(2, 32_001, 64, torch.bfloat16, False, "forward").make()
    expected = simt.propose_candidates(logits, 64, 64, None)
    simt.set_blocks_per_row(blocks)
    simt.set_schedule("random", "random", 0, 0.0, blocks)
    assert_same_results(simt.propose_candidates(logits, 64, 64, None), expected)


@needs_native
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_whose_loads_were_started_ahead(simt, dtype, blocks):
    """Rows that start at 16-byte boundaries, many chunks to a warp, the last one not whole."""
    logits = RowCase(2, 14_000, 16, dtype, True, "forward").make()
    blocked = logits[0].float().topk(20).indices[::2].contiguous()
    simt.set_blocks_per_row(blocks)
    actual = simt.propose_candidates(logits, 16, 64, blocked)
    assert_same_results(actual, ops.propose_candidates(logits, 16, 64, blocked))
    ids = _choice_of_ids(14_000, 2, 64)
    arguments = (ids, torch.randn(2, 64), logits, ids[:, :16].contiguous())
    assert_same_results(simt.support_kl(*arguments), ops.support_kl(*arguments))


def test_the_batch_a_row_sits_in_does_not_change_a_bit(simt):
    logits = RowCase(17, 2050, 16, torch.float32, True, "forward").make()
    together = simt.propose_candidates(logits, 16, 64, None)
    order = torch.randperm(17)
    permuted = simt.propose_candidates(logits[order], 16, 64, None)
    assert_same_results([value[order] for value in together], permuted)
    for row in (0, 16):
        alone = simt.propose_candidates(logits[row : row + 1], 16, 64, None)
        assert_same_results([value[row : row + 1] for value in together], alone)


def test_a_launch_reads_each_row_once_and_is_one_launch(simt):
    logits = RowCase(1, 32_001, 16, torch.float32, True, "forward").make()
    before = simt.statistics()[0]
    simt.propose_candidates(logits, 16, 64, None)
    assert simt.statistics()[0] - before == 1


# ---- pitfalls ------------------------------------------------------------------------------------


@needs_native
@pytest.mark.parametrize("blocks", [1, 0], ids=["one_block", "tuned"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_distribution(simt, distribution, blocks):
    """Among them: all equal (ties everywhere), ascending (every chunk beats the last threshold)."""
    logits = RowCase(2, 9000, 64, torch.float32, True, "forward").make(distribution)
    simt.set_blocks_per_row(blocks)
    actual = simt.propose_candidates(logits, 64, 64, None)
    assert_same_results(actual, ops.propose_candidates(logits, 64, 64))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_nan_infinities_and_nothing_leave_others_alone(simt, dtype):
    logits = RowCase(8, 3000, 8, dtype, True, "forward").make()
    logits[0] = -math.inf
    logits[1, [0, 1500, 2999]] = math.nan
    logits[2] = math.nan
    logits[3, 77] = math.inf
    logits[4, 5:] = -math.inf
    logits[5] = -0.0
    logits[5, ::2] = 0.0
    logits[6, 10:20] = 40.0  # ties at the top
    actual = simt.propose_candidates(logits, 8, 64, None)
    assert_same_results(actual, ops.propose_candidates(logits, 8, 64))
    assert actual[0][0].tolist() == [-1] * 8 and actual[0][2].tolist() == [-1] * 8
    assert actual[0][5].tolist() == list(range(8))


@needs_native
def test_blocked_ids_that_hold_the_top(simt):
    logits = RowCase(3, 5000, 16, torch.bfloat16, False, "forward").make()
    top = logits.float().topk(30).indices.flatten()[:63]
    blocked = torch.cat([top, top[:1]])
    actual = simt.propose_candidates(logits, 16, 64, blocked)
    assert_same_results(actual, ops.propose_candidates(logits, 16, 64, blocked))
    assert not torch.isin(actual[0], blocked).any()


def test_an_empty_batch(simt):
    results = simt.propose_candidates(torch.empty(0, 100), 8, 64, None)
    assert [tuple(value.shape) for value in results[:3]] == [(0, 8), (0, 8), (0,)]


def test_row_offsets_beyond_32_bits(simt):
    """Rows 2^31 elements apart: the second one starts where a 32-bit offset would be negative."""
    stride = 2**31 + 8
    storage = torch.empty(stride + 100, dtype=torch.bfloat16)  # never touched but for the two rows
    rows = storage.as_strided((2, 100), (stride, 1))
    rows.copy_(torch.randn(2, 100))
    actual = simt.propose_candidates(rows, 8, 64, None)
    assert_same_results(actual, simt.propose_candidates(rows.contiguous(), 8, 64, None))
