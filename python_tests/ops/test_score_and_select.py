"""score_and_select against its reference in float64 and against its two halves."""

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
    assert_best_slot,
    assert_close,
    assert_same_bits,
    same_everywhere,
)

INF, NAN = math.inf, math.nan


def decide(hidden, arguments):
    return ops.ScoredSelection._make(
        same_everywhere(lambda: ops.score_and_select(hidden, **arguments))
    )


def check(hidden, arguments, dtype=torch.float32):
    """The result, whose totals are the reference's to the tolerance and whose choice follows."""
    result = decide(hidden, arguments)
    expected = reference.score_and_select(hidden, **arguments)
    assert_close(result.scores, expected.scores, dtype, "scores")
    choice = reference.select_token(
        arguments["ids"],
        result.scores,
        *(arguments[name] for name in ("triggered", "default_token", "finished", "pad_id")),
        *(arguments.get(name, default) for name, default in SAMPLING_DEFAULTS.items()),
    )
    assert_same_bits(result.token, choice.token, "token")
    assert_same_bits(result.slot, choice.slot, "slot")
    return result


SAMPLING_DEFAULTS = {"score_temperature": 0.0, "seed": None, "position": None}


@pytest.mark.parametrize("case", SCORE_CASES, ids=str)
def test_equals_the_reference(case):
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    result = check(hidden, arguments, case.hidden_dtype)
    expected = reference.score_and_select(hidden, **arguments)
    assert_best_slot(result.slot, expected.scores, case.hidden_dtype)


@pytest.mark.parametrize("prior_weight", [0.0, 0.3])
def test_equals_its_halves_bit_for_bit(prior_weight):
    case = ScoreCase(batch=5, hidden_size=77, hidden_dtype=torch.bfloat16, has_bias=True)
    hidden, head, choice = case.hidden(), case.head(), case.choice()
    choice["prior_weight"] = prior_weight
    fused = decide(hidden, {**head, **choice})
    scores = ops.score_candidates(hidden.flatten(0, 1), **head).view(5, 8)
    if prior_weight == 0:
        assert_same_bits(fused.scores, scores)
    names = ("ids", "triggered", "default_token", "finished", "pad_id")
    token, slot = ops.select_token(scores=fused.scores, **{name: choice[name] for name in names})
    assert_same_bits(fused.token, token)
    assert_same_bits(fused.slot, slot)


def with_scores(scores: list[float], ids: list[int] | None = None, **options):
    """The decision of one row whose scores are these: one bin a candidate decides it alone."""
    k, values = len(scores), torch.tensor(scores)
    hidden = 400.0 * torch.eye(k)[None]
    hidden[0, values.isnan()] = NAN
    return decide(
        hidden,
        {
            "rows": torch.eye(k),
            "bin_values": values.nan_to_num(),
            "ids": torch.tensor([ids or list(range(10, 10 + k))]),
            "candidate_logprobs": torch.zeros(1, k),
            "triggered": torch.tensor([True]),
            "default_token": torch.tensor([7]),
            "finished": torch.tensor([False]),
            "pad_id": 0,
            **options,
        },
    )


@pytest.mark.parametrize(
    "scores, margin, slot, refused",
    [
        ([0.25, 0.75, 0.5], 0.0, 1, False),
        ([0.25, 0.75, 0.5], 0.25, 1, False),
        ([0.25, 0.75, 0.5], 0.5, 0, True),  # not more than the margin
        ([0.25, 0.75, 0.5], 0.75, 0, True),
        ([0.75, 0.25, 0.5], 0.5, 0, False),  # the first is the best: nothing is refused
        ([0.5, 0.5, 0.5], 0.0, 0, False),
        ([0.5, 0.5, 0.5], 0.1, 0, False),
        ([0.25, 0.75, 0.75], 0.25, 1, False),  # the earlier of equals
    ],
)
def test_the_margin_keeps_the_first_candidate(scores, margin, slot, refused):
    result = with_scores(scores, override_margin=margin)
    assert (result.slot.item(), result.refused.item()) == (slot, refused)
    assert result.token.item() == 10 + slot


def test_the_margin_does_not_keep_a_first_candidate_that_cannot_be_chosen():
    for options in ({"ids": [-1, 11, 12]}, {"scores": [NAN, 0.75, 0.5]}):
        result = with_scores(**{"scores": [0.25, 0.75, 0.5], **options}, override_margin=5.0)
        assert (result.token.item(), result.refused.item()) == (11, False)


def test_the_margin_is_applied_to_the_slot_that_was_drawn():
    count, scores = 3000, torch.tensor([0.5, 0.0, 1.0, 0.75])
    arguments = {
        "rows": torch.eye(4),
        "bin_values": scores,
        "ids": torch.arange(4).expand(count, 4),
        "candidate_logprobs": torch.zeros(count, 4),
        "triggered": torch.ones(count, dtype=torch.bool),
        "default_token": torch.zeros(count, dtype=torch.int64),
        "finished": torch.zeros(count, dtype=torch.bool),
        "pad_id": 9,
        "score_temperature": 0.5,
        "seed": torch.arange(count),
        "position": torch.zeros(count, dtype=torch.int64),
    }
    hidden = (400.0 * torch.eye(4)).expand(count, 4, 4)
    free = decide(hidden, arguments)
    held = decide(hidden, {**arguments, "override_margin": 0.3})
    refused = (free.slot == 1) | (free.slot == 3)
    assert not free.refused.any() and free.slot.unique().numel() == 4
    assert torch.equal(held.refused, refused)
    assert torch.equal(held.slot, free.slot.masked_fill(refused, 0))
    assert torch.equal(held.token, held.slot)


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.1])
def test_the_margin_equals_the_reference(margin):
    case = ScoreCase(batch=60, k=8, hidden_size=32)
    arguments = {**case.head(), **case.choice(), "override_margin": margin}
    arguments["triggered"][::4] = False
    arguments["finished"][1::7] = True
    actual = decide(case.hidden(), arguments)
    expected = reference.score_and_select(case.hidden(), **arguments)
    for name in ("token", "slot", "refused"):
        assert_same_bits(getattr(actual, name), getattr(expected, name), name)
    assert actual.refused.any() == (margin > 0)
    assert not (actual.refused & (~arguments["triggered"] | arguments["finished"])).any()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_equals_the_reference_on_made_inputs(data):
    draw = data.draw
    case = ScoreCase(
        batch=draw(st.integers(0, 5)),
        k=draw(st.integers(1, 20)),
        hidden_size=draw(st.integers(1, 100)),
        num_bins=draw(st.integers(1, 64)),
        hidden_dtype=draw(st.sampled_from(DTYPES)),
        rows_dtype=draw(st.sampled_from(DTYPES)),
        has_bias=draw(st.booleans()),
        softcap=draw(st.none() | st.floats(1, 50)),
        prior_weight=draw(st.just(0.0) | st.floats(-1, 1)),
        seed=draw(st.integers(0, 2**20)),
    )
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    shape = (case.batch, case.k)
    arguments["triggered"] = torch.rand(case.batch) < 0.7
    arguments["finished"] = torch.rand(case.batch) < 0.2
    arguments["ids"] = arguments["ids"].masked_fill(torch.rand(shape) < 0.3, -1)
    hidden[torch.rand(shape) < 0.1] = draw(st.sampled_from([NAN, INF, 0.0]))
    if draw(st.booleans()):
        arguments["score_temperature"] = draw(st.floats(0.01, 10))
        arguments["seed"] = torch.randint(-(2**62), 2**62, (case.batch,))
        arguments["position"] = torch.arange(case.batch)
    check(hidden, arguments)


def test_what_takes_part_in_no_choice_is_not_read():
    case = ScoreCase(batch=4, prior_weight=0.1)
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    arguments["triggered"] = torch.tensor([True, False, True, False])
    arguments["finished"] = torch.tensor([False, False, True, True])
    arguments["ids"][0, 5:] = -1
    expected = check(hidden, arguments)
    for bad in (NAN, INF):
        hidden[0, 5:], hidden[1:] = bad, bad
        arguments["candidate_logprobs"][0, 5:], arguments["candidate_logprobs"][1:] = bad, bad
        for actual, wanted in zip(check(hidden, arguments), expected, strict=True):
            assert_same_bits(actual, wanted)
    assert (expected.scores[0, 5:] == -INF).all() and (expected.scores[1:] == -INF).all()
    assert expected.token[1:].tolist() == [1001, 999, 999]


def test_log_probabilities_are_not_read_at_weight_0():
    case = ScoreCase()
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    expected = check(hidden, arguments)
    arguments["candidate_logprobs"].fill_(NAN)
    for actual, wanted in zip(check(hidden, arguments), expected, strict=True):
        assert_same_bits(actual, wanted)


def test_a_row_whose_candidates_all_score_nan_takes_its_default():
    case = ScoreCase(batch=2)
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    expected = check(hidden, arguments)
    hidden[0] = NAN
    result = check(hidden, arguments)
    assert result.token[0] == 1000 and result.slot[0] == 0 and (result.scores[0] == -INF).all()
    assert_same_bits(result.scores[1], expected.scores[1])


def test_equal_candidates_go_to_the_earlier_slot():
    case = ScoreCase(batch=1, k=6)
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    best = int(check(hidden, arguments).slot)
    hidden[0, :] = hidden[0, best].clone()
    result = check(hidden, arguments)
    assert result.slot.item() == 0 and result.scores.unique().numel() == 1


def test_a_row_has_the_same_bits_alone_and_in_any_company():
    case = ScoreCase(batch=9, k=7, hidden_size=130, prior_weight=0.1)
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    arguments.update(
        score_temperature=0.5, seed=torch.arange(9) * 1000, position=torch.arange(9) % 4
    )
    together = decide(hidden, arguments)
    per_row = {"ids", "candidate_logprobs", "triggered", "default_token", "finished"}
    per_row |= {"seed", "position"}
    for rows in (torch.tensor([4]), torch.tensor([8, 0, 3])):
        alone = {name: v[rows] if name in per_row else v for name, v in arguments.items()}
        for actual, wanted in zip(decide(hidden[rows], alone), together, strict=True):
            assert_same_bits(actual, wanted[rows])


def test_takes_any_strides_of_the_hidden_states():
    case = ScoreCase(hidden_size=50)
    hidden, arguments = case.hidden(), {**case.head(), **case.choice()}
    expected = decide(hidden, arguments)
    slots_first = hidden.transpose(0, 1).contiguous().transpose(0, 1)
    padded = torch.full((4, 9, 61), NAN)
    padded[1:, 1:, 3:53] = hidden
    sliced = padded[1:, 1:, 3:53]
    backwards = hidden.permute(2, 1, 0).contiguous().permute(2, 1, 0)  # last stride is not 1
    for strided in (slots_first, sliced, backwards):
        assert not strided.is_contiguous()
        for actual, wanted in zip(decide(strided, arguments), expected, strict=True):
            assert_same_bits(actual, wanted)


def test_an_empty_batch_gives_empty_results():
    case = ScoreCase(batch=0)
    result = ops.score_and_select(case.hidden(), **case.head(), **case.choice())
    assert result.token.shape == result.slot.shape == (0,) and result.scores.shape == (0, 8)


def test_a_large_batch_on_many_threads():
    case = ScoreCase(batch=64, k=16, hidden_size=1024)
    check(case.hidden(), {**case.head(), **case.choice()})


@pytest.mark.parametrize("temperature", [0.0, 0.5], ids=["best", "drawn"])
@pytest.mark.parametrize("case", SCORE_CASES, ids=str)
def test_cuda_gives_the_bits_of_the_cpu(case, temperature, cuda):
    def decide_on(device):
        position = torch.arange(case.batch, device=device)
        drawing = {"score_temperature": temperature, "seed": position * 7, "position": position}
        return ops.score_and_select(
            case.hidden(device), **case.head(device), **case.choice(device), **drawing
        )

    for actual, expected in zip(decide_on(cuda), decide_on("cpu"), strict=True):
        assert_same_bits(actual, expected)
