"""sample_token: kept sets, greedy rows, strange values, and anything, against the reference."""

import math

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import TRUNCATIONS, check, normal, options, run

from s2t_ext import ops, reference
from s2t_ext.ops.reference.philox import PURPOSE_SAMPLE_TOKEN, uniform53
from s2t_ext.testing import DTYPES, assert_close

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("vocab", [1, 63, 64, 65, 1024, 3001])
def test_truncations(vocab, truncation):
    for temperature in (1.0, 0.5, 1.7):
        for scale in (0.1, 1.0, 4.0):  # nearly flat to sharp
            arguments = options(8, temperature, **truncation)
            check(normal(8, vocab, scale), arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [50_257, 151_936])
def test_large_vocabularies(vocab, dtype):
    logits = normal(4, vocab, 1.5).to(dtype)
    for truncation in ({}, {"top_k": 50, "top_p": 0.9}, {"top_p": 0.8}, {"min_p": 0.01}):
        check(logits, options(4, 0.9, **truncation))


def test_every_row_has_its_own_parameters():
    arguments = (
        torch.tensor([0.0, 1.0, 0.7, 1.3, 1.0, 2.0]),
        torch.tensor([0, 1, 50, 0, 100, 0]),
        torch.tensor([1.0, 1.0, 0.9, 0.99, 1.0, 1.0]),
        torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.01]),
        torch.tensor([1, -(2**63), 2**63 - 1, 4, 5, 6]),
        torch.tensor([0, 1, 2**40, 3, 4, 5]),
    )
    check(normal(6, 4000), arguments)


@pytest.mark.parametrize("top_k", [1, 2, 5, 63, 64, 65, 100])
@pytest.mark.parametrize("ties", [5, 60, 64, 65, 300])
def test_top_k_keeps_all_that_equal_the_kth(top_k, ties):
    """Also ties that reach beyond the 64 best; transformers' warper is the oracle."""
    generator = torch.Generator().manual_seed(ties)
    row = -1.0 - torch.rand(700, generator=generator)
    row[torch.randperm(700, generator=generator)[:ties]] = 0.5
    warper = transformers.TopKLogitsWarper(top_k)
    kept = warper(None, row[None])[0] > -math.inf
    drawn = set(check(row.expand(3000, -1), options(3000, top_k=top_k)).token.tolist())
    assert drawn <= set(kept.nonzero().flatten().tolist())
    assert len(drawn) > 0.95 * kept.sum()


def test_top_p_after_a_top_k_with_ties_counts_the_mass_of_all_ties():
    row = torch.full((3000,), -30.0)
    row[:200] = 0.0
    for top_k in (2, 64, 65):
        token = check(row.expand(2000, -1), options(2000, top_k=top_k, top_p=0.4999)).token
        assert token.max() == 99 and token.unique().numel() == 100


def test_ties_across_a_nucleus_keep_the_lowest_ids():
    logits = torch.zeros(400, 2000)
    logits[:, 1990] = 1.0
    nucleus = check(logits, options(400, top_p=0.0505)).token  # e^1 + 98 of e^1 + 1999
    assert ((nucleus < 99) | (nucleus == 1990)).all() and (nucleus > 64).any()


# ---- greedy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "greedy", [{"temperature": 0.0}, {"temperature": -1.0}, {"top_p": 1e-9}], ids=str
)
def test_greedy_is_argmax_bit_for_bit(greedy):
    logits = normal(20, 5000).round()  # many ties
    result = run(logits, options(20, **greedy))
    assert torch.equal(result.token, ops.propose_candidates(logits, 1).ids[:, 0])
    assert torch.equal(result.token, logits.argmax(1))
    expected = logits.double().log_softmax(1).max(1).values
    assert_close(result.logprob, expected)


def test_log_probability_ignores_temperature_and_truncation():
    logits = normal(30, 500)
    for temperature, top_k in ((0.3, 0), (2.0, 10), (1.0, 100)):
        result = run(logits, options(30, temperature, top_k))
        expected = logits.double().log_softmax(1).gather(1, result.token[:, None])[:, 0]
        assert_close(result.logprob, expected)


# ---- strange values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters", [{"temperature": 0.0}, {}, {"top_k": 5}, {"top_p": 0.5}], ids=str
)
@pytest.mark.parametrize("vocab", [3, 1500])
def test_rows_with_strange_values(vocab, parameters):
    logits = normal(6, vocab)
    logits[0] = -INF
    logits[1] = NAN
    logits[2, 1:] = -INF
    logits[3, 0] = NAN
    logits[4, [1, 2]] = INF
    result = check(logits, options(6, **parameters))
    assert result.token[:3].tolist() == [-1, -1, 0]
    assert result.logprob[:3].tolist() == [-INF, -INF, 0.0]
    assert (result.token[4], result.logprob[4]) == (1, 0.0)


@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e30, INF, NAN])
def test_extreme_temperatures(temperature):
    """Very cold takes the best, very hot draws evenly; NaN is not above 0, so it takes the best."""
    logits = normal(50, 700)
    result = run(logits, options(50, temperature))
    if temperature > 1:
        u = uniform53(*options(50)[4:], PURPOSE_SAMPLE_TOKEN)
        assert torch.equal(result.token, (u * 700).long())
    else:
        assert torch.equal(result.token, logits.argmax(1))


def test_extreme_truncations():
    logits = normal(20, 700)
    best = logits.argmax(1)
    for only_best in ({"min_p": 1.0}, {"min_p": 7.0}, {"min_p": INF}, {"top_p": -1.0}):
        assert torch.equal(run(logits, options(20, **only_best)).token, best)
    everything = run(logits, options(20)).token
    for all_kept in ({"top_k": -3}, {"top_k": 2**62}, {"top_p": 2.0}, {"min_p": -1.0}):
        assert torch.equal(run(logits, options(20, **all_kept)).token, everything)


def test_logits_that_differ_by_more_than_a_float_holds():
    low, high = torch.finfo().min, torch.finfo().max
    logits = torch.tensor([[low, high, low], [low, -INF, -INF]])
    assert check(logits, options(2)).token.tolist() == [1, 0]


@pytest.mark.parametrize(
    "parameters", [{}, {"top_k": 20}, {"top_p": 0.95}, {"temperature": 0.0}], ids=str
)
def test_blocked_ids_are_never_drawn(parameters):
    logits = normal(300, 1100, 0.5)
    logits[:, 1024] = 9.0
    blocked = torch.cat((torch.tensor([1024, 1099, 0, 0]), torch.arange(500, 540)))
    token = check(logits, options(300, **parameters), blocked).token
    assert not torch.isin(token, blocked).any()
    all_blocked = run(logits[:2, :30], options(2, **parameters), torch.arange(30))
    assert all_blocked.token.tolist() == [-1, -1]


def test_empty_batch_gives_empty_results():
    result = ops.sample_token(torch.zeros(0, 9), *options(0))
    assert [tuple(t.shape) for t in result] == [(0,), (0,)]


# ---- anything ------------------------------------------------------------------------------------

VALUES = st.sampled_from([0.0, 1.0, -2.0, 20.0, INF, -INF, NAN]) | st.floats(-9, 9, width=32)


@st.composite
def calls(draw):
    palette = torch.tensor(draw(st.lists(VALUES, min_size=1, max_size=8)))
    vocab = draw(st.integers(1, 2200))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = palette[torch.randint(len(palette), (1, vocab), generator=generator)]
    if draw(st.booleans()):
        logits = logits + torch.randn(1, vocab, generator=generator)
    return logits.to(draw(st.sampled_from(DTYPES))), options(
        1,
        draw(st.floats(0.125, 3, width=32)),
        draw(st.integers(0, 200)),
        draw(st.floats(0.0, 1.0, width=32)),
        draw(st.just(0.0) | st.floats(0.0, 1.0, width=32)),
        draw(st.integers(-(2**63), 2**63 - 1)),
    )


def test_top_k_tells_apart_what_the_distance_to_the_best_does_not():
    """The smallest normal number and 0 are 1 below 1 alike, but only 0 is not among the best 2."""
    logits = torch.tensor([[0.0, torch.finfo(torch.float32).tiny, 1.0]]).repeat(64, 1)
    ones, seeds = torch.ones(64), torch.arange(64)
    arguments = (ones, torch.full((64,), 2), ones, torch.zeros(64), seeds, torch.zeros_like(seeds))
    for sample in (ops.sample_token, reference.sample_token):
        assert set(sample(logits, *arguments).token.tolist()) == {1, 2}


@given(calls())
@settings(max_examples=80, deadline=None)
def test_anything_draws_what_the_reference_draws_but_for_rounding(call):
    """Where the token differs, the number drawn or a truncation lies within rounding of a boundary:
    then a change of the parameters by 1e-5 makes the reference draw the same token."""
    logits, arguments = call
    token = run(logits, arguments).token
    temperature, top_k, top_p, min_p, seed, position = arguments

    def drawn(top_p, min_p):
        return reference.sample_token(
            logits, temperature, top_k, top_p, min_p, seed, position
        ).token

    if torch.equal(token, drawn(top_p, min_p)):
        return
    near = [drawn(top_p + a, min_p * (1 + b)) for a in (-1e-5, 0, 1e-5) for b in (-1e-5, 0, 1e-5)]
    low, high = min(near).item(), max(near).item()
    weight = torch.softmax(logits.double().nan_to_num(-INF) / temperature.item(), 1)[0]
    between = weight[min(low, token.item()) + 1 : max(high, token.item())].sum()
    assert between < 1e-4, f"{token} is far from what the reference draws, {near}"
