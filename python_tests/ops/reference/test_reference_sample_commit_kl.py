"""The references of sample, commit and support KL: against transformers, torch and by hand."""

import math

import pytest
import torch
from torch import Tensor

from s2t_ext import reference
from s2t_ext.testing import assert_close, assert_frequencies

INF, NAN = math.inf, math.nan


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


# ---- sample --------------------------------------------------------------------------------------


def sample(logits: Tensor, count: int, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    return reference.sample_token(
        logits.expand(count, -1),
        torch.full((count,), temperature),
        torch.full((count,), top_k),
        torch.full((count,), top_p),
        torch.full((count,), min_p),
        torch.full((count,), 5),
        torch.arange(count),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.7, "top_k": 9, "top_p": 0.8, "min_p": 0.05},
    ],
    ids=str,
)
def test_sample_has_the_distribution_of_the_transformers_warpers(options):
    from transformers import generation

    logits = torch.randn(1, 16) * 2
    scores = logits
    warpers = {
        "temperature": generation.TemperatureLogitsWarper,
        "top_k": generation.TopKLogitsWarper,
        "top_p": generation.TopPLogitsWarper,
        "min_p": generation.MinPLogitsWarper,
    }
    for option, warper in warpers.items():  # in the order of transformers
        if option in options:
            scores = warper(options[option])(None, scores)
    result = sample(logits, 6000, **options)
    assert_frequencies(result.token, torch.softmax(scores[0], 0))
    assert_close(result.logprob, torch.log_softmax(logits[0], 0)[result.token])


@pytest.mark.parametrize(
    "options, possible",
    [
        ({"temperature": 0.0}, {1}),
        ({"top_k": 1}, {1, 3}),  # two equals
        ({"top_p": 0.0}, {1}),
        ({"min_p": 2.0}, {1}),
        ({"min_p": 1.0}, {1, 3}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 2, "top_p": 0.5}, {1}),  # half of the mass lies before the second of two equals
    ],
    ids=str,
)
def test_sample_keeps_the_best_token_and_breaks_ties_by_id(options, possible):
    logits = torch.tensor([[0.0, 3.0, NAN, 3.0, 1.0]])
    assert set(sample(logits, 50, **options).token.tolist()) == possible


def test_sample_rows_without_valid_token_and_with_infinity():
    logits = torch.tensor([[-INF, NAN, -INF], [0.0, INF, INF]])
    result = reference.sample_token(
        logits, torch.ones(2), ints(0, 0), torch.ones(2), torch.zeros(2), ints(0, 0), ints(0, 0)
    )
    assert result.token.tolist() == [-1, 1]
    assert result.logprob.tolist() == [-INF, 0.0]


def test_sample_never_draws_a_blocked_id():
    logits = torch.tensor([[0.0, 50.0, 1.0]]).expand(40, 3)
    ones, zeros = torch.ones(40), torch.zeros(40)
    whole = zeros.long()
    result = reference.sample_token(
        logits, ones, whole, ones, zeros, torch.arange(40), whole, blocked_ids=ints(1)
    )
    assert set(result.token.tolist()) == {0, 2}
    assert_close(result.logprob, torch.log_softmax(logits[0, [0, 2]], 0)[result.token // 2])


# ---- commit --------------------------------------------------------------------------------------


def test_commit_by_hand():
    keys, values = [torch.arange(3 * 2 * 6.0).view(3, 2, 6, 1)], [torch.randn(3, 2, 6, 5)]
    before = keys[0].clone(), values[0].clone()
    reference.commit_candidates(keys, values, ints(0, 2, -1), ints(99, 3, 99), 3)
    assert keys[0][1, 0, :, 0].tolist() == [12, 13, 14, 17, 16, 17]
    assert keys[0][1, 1, :, 0].tolist() == [18, 19, 20, 23, 22, 23]
    assert torch.equal(values[0][1, :, 3], before[1][1, :, 5])
    for row in (0, 2):
        assert torch.equal(keys[0][row], before[0][row])
        assert torch.equal(values[0][row], before[1][row])


# ---- copy ----------------------------------------------------------------------------------------


def test_copy_by_hand():
    caches = [torch.arange(4 * 2.0).view(4, 2), torch.arange(5 * 3.0).view(5, 3).clone()]
    reference.copy_blocks(caches, ints(3, 1, 2), ints(0, 1, 2))
    assert caches[0].tolist() == [[6, 7], [2, 3], [4, 5], [6, 7]]
    assert caches[1][0].tolist() == [9, 10, 11]
    assert caches[1][1:].flatten().tolist() == list(range(3, 15))


# ---- support KL ----------------------------------------------------------------------------------


def test_support_kl_equals_torch_kl_div_on_the_gathered_support():
    student, teacher = torch.randn(4, 300) * 3, torch.randn(4, 300) * 3
    proposed = reference.propose_candidates(student, 8)
    ids = student.topk(64).indices
    there = student.gather(1, ids)
    result = reference.support_kl(ids, there, teacher, proposed.ids)
    log_p = torch.log_softmax(there.double(), 1)
    log_q = torch.log_softmax(teacher.gather(1, ids).double(), 1)
    kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
    assert_close(result.kl, kl)
    assert_close(
        result.candidate_logprobs, torch.log_softmax(teacher.double(), 1).gather(1, proposed.ids)
    )
    assert torch.equal(result.teacher_argmax, teacher.argmax(1))


def test_support_kl_by_hand():
    # p = (3/4, 1/4), q = (1/4, 3/4) on tokens 2 and 0; token 1 is outside of the support
    student = torch.tensor([[math.log(3.0), 0.0, 5.0]])
    teacher = torch.tensor([[math.log(3.0), 7.0, 0.0]])
    result = reference.support_kl(ints(2, 0, -1)[None], student, teacher, ints(1, -1)[None])
    assert result.kl.item() == pytest.approx(0.5 * math.log(3), abs=1e-6)
    assert result.candidate_logprobs[0, 1].item() == -INF
    assert result.teacher_argmax.item() == 1


def test_support_kl_of_rows_that_exclude_tokens():
    ids = ints(0, 1)[None].expand(4, 2)
    student = torch.tensor([[0.0, 0.0], [0.0, -INF], [NAN, -INF], [INF, 0.0]])
    teacher = torch.tensor([[0.0, -INF], [0.0, -INF], [0.0, 1.0], [0.0, 0.0]])
    result = reference.support_kl(ids, student, teacher, ids)
    log_2 = pytest.approx(math.log(2), abs=1e-6)
    assert result.kl.tolist() == [INF, 0.0, 0.0, log_2]
    nothing = torch.full((1, 2), -INF)
    assert reference.support_kl(ids[:1], student[:1], nothing, ids[:1]).teacher_argmax.item() == -1
