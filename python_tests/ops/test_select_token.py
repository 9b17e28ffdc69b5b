"""select_token against its reference: order, bad scores, draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2t_ext import ops, reference
from s2t_ext.ops.reference.philox import PURPOSE_SELECT_TOKEN, uniform24
from s2t_ext.testing import assert_same_bits, same_everywhere

INF, NAN = math.inf, math.nan


def rows_of(batch, k, variant=0, **changes):
    """Arguments of `select_token` for rows that all choose."""
    generator = torch.Generator().manual_seed(variant)
    arguments = {
        "ids": torch.randint(0, 50_000, (batch, k), generator=generator),
        "scores": torch.randn(batch, k, generator=generator),
        "triggered": torch.ones(batch, dtype=torch.bool),
        "default_token": torch.arange(100_000, 100_000 + batch),
        "finished": torch.zeros(batch, dtype=torch.bool),
        "pad_id": 99_999,
    }
    return {**arguments, **changes}


def drawing(batch, temperature=1.0, seed=3):
    return {
        "score_temperature": temperature,
        "seed": torch.full((batch,), seed),
        "position": torch.arange(batch),
    }


def check(arguments):
    token, slot = same_everywhere(lambda: ops.select_token(**arguments))
    expected = reference.select_token(**arguments)
    assert torch.equal(token, expected.token), f"token {token} is not {expected.token}"
    assert torch.equal(slot, expected.slot), f"slot {slot} is not {expected.slot}"
    return token, slot


@pytest.mark.parametrize("k", [1, 2, 8, 63, 64])
@pytest.mark.parametrize("batch", [1, 3, 70])
def test_takes_the_best_score(batch, k):
    arguments = rows_of(batch, k)
    token, slot = check(arguments)
    assert torch.equal(slot, arguments["scores"].argmax(1))
    assert torch.equal(token, arguments["ids"].gather(1, slot[:, None])[:, 0])


def test_equal_scores_go_to_the_earlier_slot():
    scores = torch.tensor([[1.0, 2.0, 2.0], [0.0, -0.0, 0.0], [-0.0, 0.0, 1e-45]])
    assert check(rows_of(3, 3, scores=scores))[1].tolist() == [1, 0, 2]


def test_rows_that_do_not_choose_take_their_default_or_padding():
    triggered = torch.tensor([True, False, True, False])
    finished = torch.tensor([False, False, True, True])
    arguments = rows_of(4, 5, triggered=triggered, finished=finished)
    arguments["scores"][1:] = NAN
    token, slot = check(arguments)
    assert token[1:].tolist() == [100_001, 99_999, 99_999] and slot[1:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("sampling", [False, True], ids=["best", "drawn"])
def test_empty_slots_and_bad_scores_are_never_chosen(sampling):
    scores = torch.tensor([[9.0, 1.0, 0.0], [NAN, -INF, -3.0], [NAN, -INF, 5.0], [INF, 0.0, NAN]])
    arguments = rows_of(4, 3, scores=scores, **(drawing(4) if sampling else {}))
    arguments["ids"][0, 0], arguments["ids"][2, 2] = -1, -1
    token, slot = check(arguments)
    assert slot[1:].tolist() == [2, 0, 0] and slot[0] != 0
    assert token[2] == 100_002  # nothing to choose from: the default


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_equals_the_reference_on_made_rows(data):
    batch, k = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 64))
    arguments = rows_of(batch, k, variant=data.draw(st.integers(0, 2**20)))
    special = data.draw(st.sampled_from([NAN, INF, -INF, 0.0, 0.5]))
    where = torch.rand(batch, k) < 0.3
    arguments["scores"] = arguments["scores"].masked_fill(where, special)
    arguments["ids"] = arguments["ids"].masked_fill(torch.rand(batch, k) < 0.2, -1)
    arguments["triggered"] = torch.rand(batch) < 0.8
    arguments["finished"] = torch.rand(batch) < 0.2
    check(arguments)


def test_draws_by_inverse_cdf_in_slot_order():
    # Weights e^0 and e^-ln(3): the first slot has 3/4 of the mass, the second the rest.
    count = 2000
    arguments = rows_of(count, 2, **drawing(count, temperature=0.5))
    arguments["scores"] = torch.tensor([0.0, -0.5 * math.log(3)]).expand(count, 2).contiguous()
    _, slot = check(arguments)
    u = uniform24(arguments["seed"], arguments["position"], PURPOSE_SELECT_TOKEN)
    assert torch.equal(slot, (u >= 0.75).long())


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_draws_the_reference_slots(temperature):
    # Draws are at fixed seeds, so none is within rounding of a boundary by accident of a run.
    batch = 500
    check(rows_of(batch, 16, **drawing(batch, temperature)))


def test_a_tiny_temperature_takes_the_best():
    arguments = rows_of(50, 8)
    _, best = check(arguments)
    _, drawn = check({**arguments, **drawing(50, temperature=1e-6)})
    assert torch.equal(best, drawn)


def test_a_draw_depends_on_seed_and_position_and_not_on_the_row():
    batch = 40
    arguments = rows_of(batch, 8, **drawing(batch))
    token, slot = check(arguments)
    order = torch.randperm(batch)
    permuted = {
        name: value[order] if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    assert torch.equal(check(permuted)[1], slot[order])
    for name in ("seed", "position"):
        other = check({**arguments, name: arguments[name] + 1})[1]
        assert not torch.equal(other, slot)


def test_negative_and_large_seeds_and_positions():
    extremes = torch.tensor([-(2**63), -1, 0, 2**32, 2**63 - 1])
    pairs = torch.cartesian_prod(extremes, extremes)
    arguments = rows_of(
        25, 8, score_temperature=1.0, seed=pairs[:, 0].clone(), position=pairs[:, 1].clone()
    )
    check(arguments)


def test_takes_strided_inputs():
    arguments = rows_of(6, 8, **drawing(6))
    expected = ops.select_token(**arguments)
    strided = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            room = value.new_zeros((*value.shape[:-1], 2 * value.shape[-1]))
            room[..., ::2] = value
            strided[name] = room[..., ::2]
            assert not strided[name].is_contiguous()
    for actual, wanted in zip(ops.select_token(**strided), expected, strict=True):
        assert_same_bits(actual, wanted)


def test_an_empty_batch_gives_empty_results():
    token, slot = ops.select_token(**rows_of(0, 8))
    assert token.shape == slot.shape == (0,)
    assert token.dtype == slot.dtype == torch.int64


@pytest.mark.parametrize("sampling", [False, True], ids=["best", "drawn"])
def test_cuda_gives_the_bits_of_the_cpu(sampling, cuda):
    arguments = rows_of(50, 16, **(drawing(50) if sampling else {}))
    arguments["scores"][:, 3], arguments["ids"][::2, 5] = NAN, -1
    arguments["triggered"][::5], arguments["finished"][::7] = False, True
    there = {
        name: value.to(cuda) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
    expected = ops.select_token(**arguments)
    for actual, wanted in zip(ops.select_token(**there), expected, strict=True):
        assert_same_bits(actual, wanted)
