"""support_kl beside torch: gathers, two softmaxes on the support, log softmax of the teacher.

pytest bench/bench_support_kl.py -s
"""

import itertools

import pytest
import torch

from s2t_ext import ops, reference
from s2t_ext.testing import assert_close

VOCAB, K, SUPPORT = 151_936, 8, 64
INPUTS = 16  # rows in turn, at least; see bench_propose_candidates.py


def composition(student_ids, student_logits, teacher_logits, candidate_ids):
    x = teacher_logits.float()
    log_p = torch.log_softmax(student_logits, dim=-1)
    log_q = torch.log_softmax(x.gather(1, student_ids), dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    logprobs = x.gather(1, candidate_ids) - torch.logsumexp(x, dim=-1, keepdim=True)
    return kl, logprobs, x.argmax(dim=-1)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_support_kl(compare, num_threads, batch, dtype):
    generator = torch.Generator().manual_seed(0)

    def case():
        student = torch.randn(batch, VOCAB, generator=generator) * 3
        teacher = student + torch.randn(batch, VOCAB, generator=generator)
        best = student.topk(SUPPORT)
        return best.indices, best.values, teacher.to(dtype), best.indices[:, :K].contiguous()

    inputs = [case() for _ in range(max(1, INPUTS // batch))]
    expected = reference.support_kl(*inputs[0])
    for result in (ops.support_kl(*inputs[0]), composition(*inputs[0])):
        assert_close(result[0], expected.kl)
        assert_close(result[1], expected.candidate_logprobs)
    teacher = inputs[0][2]
    best = teacher.gather(1, expected.teacher_argmax[:, None])
    for result in (ops.support_kl(*inputs[0]), composition(*inputs[0])):
        assert torch.equal(teacher.gather(1, result[2][:, None]), best)

    def in_turn(function):
        turns = itertools.cycle(inputs)
        return lambda: function(*next(turns))

    compare(
        {"batch": batch, "vocab": VOCAB, "dtype": str(dtype)[6:], "threads": num_threads},
        {"torch": in_turn(composition), "s2t_ext": in_turn(ops.support_kl)},
        ours="s2t_ext",
    )
