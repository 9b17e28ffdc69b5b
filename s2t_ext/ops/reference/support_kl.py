"""KL of student and teacher on the student's support, and the teacher's view of candidates."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common

_OP = "support_kl"


class SupportKL(NamedTuple):
    """Result of `support_kl`."""

    kl: Tensor  # float32 [batch], nats; +inf if the teacher excludes what the student allows
    candidate_logprobs: Tensor  # float32 [batch, k], the teacher's; -inf where the id is -1
    teacher_argmax: Tensor  # int64 [batch]; -1 if the teacher has no valid token


def support_kl(
    student_ids: Tensor, student_logits: Tensor, teacher_logits: Tensor, candidate_ids: Tensor
) -> SupportKL:
    """See `s2t_ext.ops.support_kl`."""
    _check(student_ids, student_logits, teacher_logits, candidate_ids)
    teacher, _ = common.usable_logits(teacher_logits, None)
    student = student_logits.double()
    student = torch.where((student_ids < 0) | student.isnan(), -math.inf, student)

    teacher_there = teacher.gather(1, student_ids.clamp(min=0))
    teacher_there = torch.where(student_ids < 0, -math.inf, teacher_there)
    log_p = common.log_probabilities(student)
    log_q = common.log_probabilities(teacher_there)
    # What lies e^-87 below the favourite is not allowed but noise: exp_canonical is 0 there.
    best_student = student.amax(dim=1, keepdim=True)
    p = torch.where(student.float() < best_student.float() - 87.0, 0.0, log_p.exp())
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=1).clamp(min=0.0)

    candidates = common.log_probabilities(teacher).gather(1, candidate_ids.clamp(min=0))
    best = teacher.max(dim=1)
    return SupportKL(
        kl.float(),
        torch.where(candidate_ids < 0, -math.inf, candidates).float(),
        # argmax gives the first of equals, i.e. the lowest id
        torch.where(best.values == -math.inf, -1, teacher.argmax(dim=1)),
    )


def _check(
    student_ids: Tensor, student_logits: Tensor, teacher_logits: Tensor, candidate_ids: Tensor
) -> None:
    common.require_rank(_OP, "teacher_logits", teacher_logits, 2, "[batch, vocab]")
    common.require_dtype(_OP, "teacher_logits", teacher_logits, common.LOGIT_DTYPES)
    batch, vocab = teacher_logits.shape
    common.require(vocab >= 1, _OP, "teacher_logits", "have at least one column", vocab)
    limit = common.MAX_CANDIDATES
    for argument, ids, text in (
        ("student_ids", student_ids, "[batch, support]"),
        ("candidate_ids", candidate_ids, "[batch, k]"),
    ):
        common.require_rank(_OP, argument, ids, 2, text)
        common.require_dtype(_OP, argument, ids, (torch.int64,))
        common.require_device(_OP, argument, ids, teacher_logits, "teacher_logits")
        common.require_shape(_OP, argument, ids, (batch, ids.shape[1]), text)
        columns = ids.shape[1]
        common.require(1 <= columns <= limit, _OP, argument, f"have 1 to {limit} columns", columns)
    common.require_dtype(_OP, "student_logits", student_logits, (torch.float32,))
    common.require_shape(
        _OP, "student_logits", student_logits, student_ids.shape, "[batch, support]"
    )
    common.require_device(_OP, "student_logits", student_logits, teacher_logits, "teacher_logits")
    if teacher_logits.device.type != "cpu":
        return  # reading device tensors would wait for the device
    for argument, ids in (("student_ids", student_ids), ("candidate_ids", candidate_ids)):
        if ids.numel():
            for bound in (ids.min(), ids.max()):
                is_id = -1 <= int(bound) < vocab
                requirement = f"be -1 or in [0, vocab) = [0, {vocab})"
                common.require(is_id, _OP, argument, requirement, int(bound))
