"""The references of random numbers, propose, score and select: against published vectors,
independent formulas and results computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from s2t_ext import reference
from s2t_ext.ops.reference.philox import philox4x32, uniform24, uniform53
from s2t_ext.testing import assert_close, assert_frequencies

INF, NAN = math.inf, math.nan


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def bools(*values: bool) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


# ---- Philox --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        # Known-answer vectors of the authors' Random123 library (philox4x32, 10 rounds).
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected):
    words = philox4x32(tuple(ints(c) for c in counter), tuple(ints(k) for k in key))
    assert tuple(int(word) for word in words) == expected


def test_uniform_numbers_use_seed_position_and_purpose_as_documented():
    seed, position = 0x299F31D0_A4093822, 0x05A308D3_243F6A88
    words = philox4x32(
        (ints(0x243F6A88), ints(0x05A308D3), ints(7), ints(0)),
        (ints(0xA4093822), ints(0x299F31D0)),
    )
    first, second = int(words[0]), int(words[1])
    assert uniform24(ints(seed), ints(position), 7).item() == (first >> 8) / 2**24
    fine = ((first << 21) | (second >> 11)) / 2**53
    assert uniform53(ints(seed), ints(position), 7).item() == fine


def test_uniform_numbers_differ_by_seed_position_and_purpose_and_fill_the_interval():
    seeds = torch.arange(-2000, 2000)
    zero = torch.zeros_like(seeds)
    draws = [uniform24(seeds, zero, 0), uniform24(zero, seeds, 0), uniform24(seeds, zero, 1)]
    for u in draws:
        assert 0 <= u.min() and u.max() < 1
        # 4,000 numbers: the mean is within 5 standard deviations of 1/2
        assert abs(u.mean().item() - 0.5) < 5 / math.sqrt(12 * 4000)
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


# ---- propose -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("support", [0, 5, 64])
def test_propose_equals_topk_logsumexp_and_categorical_entropy(dtype, support):
    logits = torch.stack([torch.randperm(200) for _ in range(4)]).to(dtype) / 16  # no two equal
    result = reference.propose_candidates(logits, 5, support)
    top = logits.float().topk(max(support, 5), dim=1)
    assert torch.equal(result.ids, top.indices[:, :5])
    assert torch.equal(result.logits, top.values[:, :5])
    x = logits.double()
    assert_close(result.logsumexp, torch.logsumexp(x, 1))
    full = torch.distributions.Categorical(logits=x).entropy()
    assert_close(result.full_entropy, full)
    kept = torch.distributions.Categorical(logits=top.values[:, :support].double())
    assert_close(result.support_entropy, kept.entropy() if support else full)
    assert not result.status.any()


def test_propose_by_hand():
    row = [1.0, 2.0, NAN, 2.0, -INF, 9.0, -0.0, 0.0]
    result = reference.propose_candidates(torch.tensor([row]), 7, 7, blocked_ids=ints(5))
    assert result.ids.tolist() == [[1, 3, 0, 6, 7, -1, -1]]
    assert result.logits.tolist() == [[2.0, 2.0, 1.0, 0.0, 0.0, -INF, -INF]]
    assert math.copysign(1, result.logits[0, 3].item()) == 1  # -0 became +0
    total = 2 * math.exp(2) + math.exp(1) + 2
    assert result.logsumexp.item() == pytest.approx(math.log(total), abs=1e-6)
    entropy = math.log(total) - (2 * 2 * math.exp(2) + math.exp(1)) / total
    assert result.full_entropy.item() == pytest.approx(entropy, abs=1e-6)
    assert result.support_entropy.item() == pytest.approx(entropy, abs=1e-6)
    assert result.status.item() == reference.STATUS_NAN_SEEN | reference.STATUS_FEWER_THAN_K


def test_propose_rows_without_valid_tokens_and_with_infinity_leave_others_alone():
    ordinary = torch.randn(10)
    rows = [torch.full((10,), -INF), torch.full((10,), NAN), ordinary.clone(), ordinary]
    rows[2][[3, 6]] = INF
    result = reference.propose_candidates(torch.stack(rows), 2)
    none = reference.STATUS_NO_VALID_TOKEN | reference.STATUS_FEWER_THAN_K
    expected = [none, none | reference.STATUS_NAN_SEEN, reference.STATUS_INF_SEEN, 0]
    assert result.status.tolist() == expected
    assert result.ids[:3].tolist() == [[-1, -1], [-1, -1], [3, 6]]
    assert result.logits[:3].tolist() == [[-INF, -INF], [-INF, -INF], [INF, INF]]
    assert result.logsumexp[:3].tolist() == [-INF, -INF, INF]
    assert result.full_entropy[:3].tolist() == result.support_entropy[:3].tolist() == [0, 0, 0]
    alone = reference.propose_candidates(ordinary[None], 2)
    assert all(torch.equal(a[3:], b) for a, b in zip(result, alone, strict=True))


def test_propose_does_not_look_at_blocked_entries():
    logits = torch.tensor([[1.0, NAN, INF, 0.5]])
    result = reference.propose_candidates(logits, 2, blocked_ids=ints(1, 2, 2))
    assert result.ids.tolist() == [[0, 3]] and result.status.item() == 0


# ---- score ---------------------------------------------------------------------------------------


def test_score_of_two_bins_is_a_sigmoid():
    hidden = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-3.0, 1.0]])
    rows = torch.tensor([[0.0, 0.0], [1.0, -0.25]])
    score = reference.score_candidates(hidden, rows, bin_temperature=0.5)
    assert_close(score, torch.sigmoid(torch.tensor([0.5, 0.0, -3.25]).double() / 0.5))


def test_score_equals_the_composition_of_torch_modules():
    hidden, head = torch.randn(9, 40), torch.nn.Linear(40, 16)
    values = torch.randn(16)
    scale, cap, temperature = 0.5, 2.0, 0.7
    score = reference.score_candidates(
        hidden, head.weight, head.bias, values, temperature, scale, cap
    )
    z = cap * torch.tanh(head(hidden) * scale / cap)
    assert_close(score, torch.softmax(z / temperature, dim=-1) @ values)


def test_score_takes_bins_from_0_to_1_by_default():
    hidden, rows = torch.randn(4, 8), torch.randn(5, 8)
    values = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    expected = reference.score_candidates(hidden, rows, bin_values=values)
    assert torch.equal(reference.score_candidates(hidden, rows), expected)


def test_score_is_nan_where_logits_are_nan_or_infinite():
    hidden = torch.tensor([[NAN, 0.0], [INF, 0.0], [1.0, 0.0]])
    score = reference.score_candidates(hidden, torch.tensor([[1.0, 1.0], [0.5, 1.0]]))
    assert score.isnan().tolist() == [True, True, False]


# ---- select --------------------------------------------------------------------------------------


def select(scores, ids=None, triggered=True, finished=False, **sampling):
    scores = torch.tensor([scores], dtype=torch.float32)
    ids = 10 + torch.arange(scores.shape[1])[None] if ids is None else torch.tensor([ids])
    result = reference.select_token(
        ids, scores, bools(triggered), ints(77), bools(finished), 99, **sampling
    )
    return result.token.item(), result.slot.item()


@pytest.mark.parametrize("sampling", [{}, {"score_temperature": 1e-3}], ids=["best", "drawn"])
@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"scores": [0.1, 0.9, 0.3]}, (11, 1)),
        ({"scores": [NAN, -INF, -5.0]}, (12, 2)),
        ({"scores": [0.9, 0.1, 0.5], "ids": [-1, 4, 5]}, (5, 2)),
        ({"scores": [NAN, 1.0], "ids": [3, -1]}, (77, 0)),
        ({"scores": [0.1, 0.9], "triggered": False}, (77, 0)),
        ({"scores": [0.1, 0.9], "finished": True}, (99, 0)),
        ({"scores": [0.1, INF, 3.0]}, (11, 1)),
    ],
)
def test_select_by_hand(arguments, expected, sampling):
    if sampling:
        sampling = {**sampling, "seed": ints(1), "position": ints(2)}
    assert select(**arguments, **sampling) == expected


def test_select_takes_the_earlier_of_equal_scores():
    assert select([0.5, 0.7, 0.7, 0.7]) == (11, 1)


def test_select_draws_from_the_softmax_of_the_scores():
    scores, temperature = torch.tensor([0.2, -INF, 1.0, NAN, 0.6]), 0.5
    count = 4000
    result = reference.select_token(
        torch.arange(5).expand(count, 5),
        scores.expand(count, 5),
        torch.ones(count, dtype=torch.bool),
        torch.zeros(count, dtype=torch.int64),
        torch.zeros(count, dtype=torch.bool),
        0,
        temperature,
        torch.arange(count),
        torch.full((count,), 17),
    )
    expected = torch.softmax(torch.tensor([0.2, -INF, 1.0, -INF, 0.6]) / temperature, 0)
    assert_frequencies(result.token, expected)


def test_score_and_select_is_score_then_prior_then_select():
    hidden, rows = torch.randn(3, 4, 20), torch.randn(16, 20)
    hidden[0, 3], hidden[2] = NAN, NAN  # an empty slot and a row that doesn't choose
    ids = torch.tensor([[5, 6, 7, -1], [1, 2, 3, 4], [8, 9, 10, 11]])
    logprobs = -torch.rand(3, 4)
    rows_state = {
        "triggered": bools(True, True, False),
        "default_token": ints(70, 71, 72),
        "finished": bools(False, False, False),
        "pad_id": 0,
    }
    got = reference.score_and_select(
        hidden, rows, ids=ids, candidate_logprobs=logprobs, prior_weight=0.3, **rows_state
    )
    total = reference.score_candidates(hidden.flatten(0, 1), rows).view(3, 4) + 0.3 * logprobs
    expected = total.clone()
    expected[0, 3], expected[2] = -INF, -INF
    assert_close(got.scores, expected)
    token, slot = reference.select_token(ids, got.scores, **rows_state)
    assert torch.equal(got.token, token) and torch.equal(got.slot, slot)
    assert slot.tolist() == [int(expected[0].argmax()), int(expected[1].argmax()), 0]


def test_score_and_select_does_not_read_log_probabilities_at_weight_0():
    arguments = {
        "ids": ints(4, 5)[None],
        "candidate_logprobs": torch.full((1, 2), NAN),
        "triggered": bools(True),
        "default_token": ints(0),
        "finished": bools(False),
        "pad_id": 0,
    }
    result = reference.score_and_select(torch.randn(1, 2, 8), torch.randn(4, 8), **arguments)
    assert result.scores.isfinite().all()
