"""The CUDA kernels that score, select, sample and commit, executed and checked on a CPU."""

import pytest
import torch
from simt_cases import SCHEDULES, RowCase, assert_same_results, needs_native, row_cases

from s2t_ext import ops
from s2t_ext.testing import DTYPES, SCORE_CASES, ScoreCase

pytestmark = needs_native


def _set(simt, index: int) -> None:
    simt.set_schedule(*list(SCHEDULES.values())[index % len(SCHEDULES)])


# ---- score_candidates, select_token, score_and_select --------------------------------------------


def _choose(operators, case: ScoreCase, score_temperature: float, override_margin: float = 0.0):
    head, choice = case.head(), case.choice()
    choice["triggered"][1::3] = False
    choice["finished"][2::5] = True
    choice["ids"][0, case.k // 2 + 1 :] = -1
    return operators.score_and_select(
        case.hidden(),
        **head,
        **choice,
        score_temperature=score_temperature,
        seed=torch.arange(case.batch) * 2**33 + 5,
        position=torch.arange(case.batch) + 2**32,
        override_margin=override_margin,
    )


@pytest.mark.parametrize("index", range(len(SCORE_CASES)), ids=lambda i: str(SCORE_CASES[i]))
def test_score_and_select_gives_the_cpu_bits(simt, index):
    _set(simt, index)
    for temperature in (0.0, 0.7):
        actual = _choose(simt, SCORE_CASES[index], temperature)
        assert_same_results(actual, _choose(ops, SCORE_CASES[index], temperature))


@pytest.mark.parametrize("k", [1, 2, 8, 16, 63, 64])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 17])
def test_score_and_select_over_batches_and_k(simt, batch, k):
    _set(simt, batch + k)
    case = ScoreCase(batch=batch, k=k, hidden_size=130, num_bins=16, prior_weight=0.1)
    assert_same_results(_choose(simt, case, 0.0), _choose(ops, case, 0.0))


@pytest.mark.parametrize("margin", [0.02, 0.1, 1e9])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_override_margin_gives_the_cpu_bits(simt, temperature, margin):
    _set(simt, int(10 * temperature))
    case = ScoreCase(batch=40, k=8, hidden_size=32)
    actual = _choose(simt, case, temperature, margin)
    assert_same_results(actual, _choose(ops, case, temperature, margin))
    assert actual[3].any()


@pytest.mark.parametrize("batch", [0, 1, 128, 129, 300])
def test_random_uniform_gives_the_cpu_bits(simt, batch):
    arguments = torch.arange(batch) * 2**40 - 7, torch.arange(batch) * 2**33 + 2**31, 16
    assert_same_results(simt.random_uniform(*arguments), ops.random_uniform(*arguments))


@pytest.mark.parametrize("index", range(len(SCORE_CASES)), ids=lambda i: str(SCORE_CASES[i]))
def test_score_candidates_gives_the_cpu_bits(simt, index):
    _set(simt, index + 1)
    case = SCORE_CASES[index]
    padded = torch.nn.functional.pad(case.hidden().flatten(0, 1), (1, 2), value=float("nan"))
    hidden = padded[:, 1:-2]  # neither aligned nor contiguous
    actual = simt.score_candidates(hidden, **case.head())
    assert_same_results(actual, ops.score_candidates(hidden, **case.head()))


@pytest.mark.parametrize("size", [8, 255, 256, 257, 264, 512, 776])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stages_whose_loads_were_started_ahead(simt, dtype, size):
    """Whole stages and parts of one, in all types, with candidates and bins for two passes."""
    for rows_dtype in DTYPES:
        case = ScoreCase(3, 17, size, 17, hidden_dtype=dtype, rows_dtype=rows_dtype)
        assert_same_results(_choose(simt, case, 0.0), _choose(ops, case, 0.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_select_token_gives_the_cpu_bits(simt, schedule):
    simt.set_schedule(*SCHEDULES[schedule])
    batch, k = 17, 9
    scores = torch.randn(batch, k).round(decimals=0)  # with ties
    scores[0] = float("nan")
    scores[1, :4] = float("inf")
    scores[2] = float("-inf")
    ids = torch.arange(batch * k).view(batch, k).masked_fill(torch.rand(batch, k) < 0.2, -1)
    for temperature in (0.0, 1.5):
        arguments = dict(
            scores=scores,
            triggered=torch.rand(batch) < 0.8,
            default_token=torch.arange(batch),
            finished=torch.rand(batch) < 0.1,
            pad_id=7,
            score_temperature=temperature,
            seed=torch.arange(batch),
            position=torch.arange(batch) * 3,
        )
        actual = simt.select_token(ids, **arguments)
        assert_same_results(actual, ops.select_token(ids, **arguments))


# ---- sample_token --------------------------------------------------------------------------------

# Greedy two ways, plain, listed and unlisted top-k, top-p and min-p, and mixtures.
RULES = {
    "temperature": torch.tensor([0.0, 1.0, 0.7, 1.3, 1.0, 0.5, 2.0, 1.0]),
    "top_k": torch.tensor([0, 0, 5, 100, 0, 1, 200, 300]),
    "top_p": torch.tensor([1.0, 1.0, 0.9, 0.95, 0.9, 0.5, 0.97, 1.0]),
    "min_p": torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.001, 0.01]),
}

MORE = (  # tempered without top-k: plain, nucleus within the 64 best and beyond, min-p beside it
    torch.tensor([0.7, 0.3, 1.7, 0.9]),
    torch.tensor([0, 0, 0, 0]),
    torch.tensor([1.0, 0.6, 0.97, 0.95]),
    torch.tensor([0.0, 0.0, 0.0, 0.02]),
)


def _sample(operators, logits, first_rule: int, blocked=None):
    rows = (torch.arange(logits.shape[0]) + first_rule) % 8
    rules = [value[rows] for value in RULES.values()]
    seed = torch.arange(logits.shape[0]) + 2**40
    return operators.sample_token(logits, *rules, seed, seed * 3, blocked)


@pytest.mark.parametrize("case", row_cases((1, 7, 63, 64, 65, 1023, 1025)), ids=str)
def test_sample_token_gives_the_cpu_bits(simt, case):
    simt.set_schedule(*SCHEDULES[case.schedule])
    logits = case.make("gumbel" if case.k % 2 else "normal")
    blocked = torch.tensor([0, case.vocab // 2]) if case.vocab > 2 else None
    actual = _sample(simt, logits, case.k, blocked)
    assert_same_results(actual, _sample(ops, logits, case.k, blocked))


@pytest.mark.parametrize("first_rule", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("vocab", [32_001, 50_257, 151_936])
def test_sample_token_of_large_vocabularies(simt, vocab, first_rule):
    logits = RowCase(1, vocab, 8, DTYPES[first_rule % 3], False, "forward").make()
    assert_same_results(_sample(simt, logits, first_rule), _sample(ops, logits, first_rule))


@pytest.mark.parametrize("ties", [3, 50, 64, 65, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_token_among_ties(simt, dtype, ties):
    """A nucleus that ends inside a run of equal logits, and a top-k that keeps all of them."""
    logits = torch.full((8, 1700), -1.0, dtype=dtype)
    logits[:, 1100 : 1100 + ties] = 0.3
    assert_same_results(_sample(simt, logits, 0), _sample(ops, logits, 0))
    rules = [torch.full((24,), 1.0), torch.tensor([1, 2, 64, 65, 100, 301]).repeat(4)]
    rules += [torch.tensor([1.0, 0.5]).repeat_interleave(12), torch.zeros(24)]
    rows = logits[:1].expand(24, -1), *rules, torch.arange(24), torch.arange(24)
    assert_same_results(simt.sample_token(*rows, None), ops.sample_token(*rows))


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 32])
def test_the_split_of_a_row_does_not_change_a_draw(simt, blocks):
    """Among the rows tempered ones without top-k, whose sums come from all blocks."""
    logits = RowCase(12, 9000, 8, DTYPES[blocks % 3], blocks % 2 == 0, "forward").make()
    rules = [torch.cat((value, more)) for value, more in zip(RULES.values(), MORE, strict=True)]
    rows = logits, *rules, torch.arange(12), torch.arange(12) * 7, torch.tensor([3, 8999])
    simt.set_blocks_per_row(blocks)
    simt.set_schedule("random", "random", 0, 0.0, blocks)
    launches = simt.statistics()[0]
    actual = simt.sample_token(*rows)
    assert simt.statistics()[0] - launches == 1
    assert_same_results(actual, ops.sample_token(*rows))


# Rows in which a cutoff is hard to find: what radix selection, its estimate and the search after it
# could get wrong.
HARD_ROWS = {
    "all_equal": lambda n: torch.full((n,), 1.5),
    "two_values": lambda n: torch.arange(n) % 2 * 0.25,
    "mostly_minus_infinity": lambda n: torch.randn(n).masked_fill(
        torch.arange(n) % 9 > 0, -torch.inf
    ),
    "fewer_candidates_than_wanted": lambda n: torch.full((n,), -torch.inf).index_fill(
        0, torch.arange(0, n, n // 80), -3.0
    ),
    "around_zero": lambda n: torch.randn(n).round(decimals=1) * 1e-3,
    "neighbouring_floats": lambda n: (1.0 + torch.arange(n) % 500 * 2.0**-23).flip(0),
    "one_outweighs_its_chunk": lambda n: (torch.randn(n) * 1e-3 - 15.0).index_fill(
        0, torch.tensor([5, n - 3]), 1.0
    ),
    "far_below": lambda n: torch.linspace(-200.0, 0.0, n),
    "nan_among_them": lambda n: torch.randn(n).index_fill(0, torch.arange(0, n, 7), torch.nan),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HARD_ROWS)
def test_sample_token_where_cutoffs_are_hard_to_find(simt, name, dtype):
    vocab = 2500
    logits = HARD_ROWS[name](vocab).to(dtype).expand(12, -1)
    top_k = torch.tensor([0, 65, 100, vocab, vocab - 1, 300, 0, 0, 0, 700, 64, 0])
    top_p = torch.tensor([0.5, 1.0, 0.9, 0.0, 1.0, 0.99, 0.99999994, 1 - 1e-6, 0.9, 0.3, 0.97, 1.0])
    min_p = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0, 0.0])
    temperature = torch.tensor([1.0, 1.0, 0.7, 1.0, 2.0, 1.0, 1.0, 1.7, 1.0, 0.1, 1.0, 3.0])
    rows = logits, temperature, top_k, top_p, min_p, torch.arange(12), torch.arange(12) * 5
    assert_same_results(simt.sample_token(*rows, None), ops.sample_token(*rows))


# ---- commit_candidates ---------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("head_size", [1, 3, 5, 64, 128])
def test_commit_candidates_moves_the_winner_and_nothing_else(simt, head_size, schedule):
    simt.set_schedule(*SCHEDULES[schedule])
    dtype = DTYPES[head_size % 3]
    shape = (4, 2, 20, head_size)
    keys = [torch.randn(shape).to(dtype) for _ in range(3)]
    values = [torch.randn(4, 20, 2, head_size).to(dtype).transpose(1, 2) for _ in range(3)]
    expected = [t.clone() for t in keys], [t.clone() for t in values]
    slot, start = torch.tensor([0, 3, -1, 7]), torch.tensor([1, 12, 3, 5])
    simt.commit_candidates(keys, values, slot, start, 8)
    ops.commit_candidates(*expected, slot, start, 8)
    assert_same_results([*keys, *values], [*expected[0], *expected[1]])


@pytest.mark.parametrize("slot, start", [(4, 2), (100, 2), (2**40, 2), (1, 9), (1, 20), (1, -1)])
def test_commit_candidates_leaves_rows_with_impossible_places_alone(simt, slot, start):
    """k = 4, length 12: a slot that is no candidate's, a start from which k do not fit."""
    keys, values = [torch.randn(2, 2, 12, 4)], [torch.randn(2, 2, 12, 4)]
    expected = [t.clone() for t in (*keys, *values)]
    simt.commit_candidates(keys, values, torch.tensor([slot, 3]), torch.tensor([start, 8]), 4)
    for tensor in expected:
        tensor[1, :, 8] = tensor[1, :, 11]
    assert_same_results([*keys, *values], expected)


def test_commit_candidates_of_more_buffers_than_one_launch_takes(simt):
    keys = [torch.randn(2, 1, 9, 4) for _ in range(40)]
    values = [torch.randn(2, 1, 9, 4) for _ in range(40)]
    expected = [t.clone() for t in keys], [t.clone() for t in values]
    before = simt.statistics()[0]
    arguments = torch.tensor([2, 1]), torch.tensor([3, 4]), 4
    simt.commit_candidates(keys, values, *arguments)
    assert simt.statistics()[0] - before == 2
    ops.commit_candidates(*expected, *arguments)
    assert_same_results([*keys, *values], [*expected[0], *expected[1]])


# ---- copy_blocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("elements", [1, 3, 5, 64, 2100])
def test_copy_blocks_copies_the_blocks_and_nothing_else(simt, elements, schedule):
    """A block of 2100 is more than one thread block copies; sizes leave every alignment."""
    simt.set_schedule(*SCHEDULES[schedule])
    dtype = DTYPES[elements % 3]
    caches = [torch.randn(9, 2, elements).to(dtype) for _ in range(3)]
    caches.append(torch.randn(9, elements, 2).to(dtype).transpose(1, 2))
    expected = [cache.clone() for cache in caches]
    source, target = torch.tensor([0, 3, 4, 3]), torch.tensor([8, 7, 4, 1])
    simt.copy_blocks(caches, source, target)
    ops.copy_blocks(expected, source, target)
    assert_same_results(caches, expected)


@pytest.mark.parametrize("source, target", [(9, 1), (-1, 1), (2**40, 1), (1, 9), (1, -(2**40))])
def test_copy_blocks_leaves_out_pairs_with_blocks_that_are_none(simt, source, target):
    caches = [torch.randn(9, 4), torch.randn(12, 6)[:9]]
    expected = [cache.clone() for cache in caches]
    simt.copy_blocks(caches, torch.tensor([source, 3]), torch.tensor([target, 8]))
    ops.copy_blocks(expected, torch.tensor([3]), torch.tensor([8]))
    assert_same_results(caches, expected)


def test_copy_blocks_is_one_launch_for_as_many_caches_as_its_arguments_hold(simt):
    for count, launches in ((96, 1), (97, 2)):
        caches = [torch.randn(5, 4) for _ in range(count)]
        expected = [cache.clone() for cache in caches]
        before = simt.statistics()[0]
        simt.copy_blocks(caches, torch.tensor([0, 2]), torch.tensor([1, 4]))
        assert simt.statistics()[0] - before == launches
        ops.copy_blocks(expected, torch.tensor([0, 2]), torch.tensor([1, 4]))
        assert_same_results(caches, expected)
