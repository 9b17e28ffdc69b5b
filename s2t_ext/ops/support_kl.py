"""Divergence from the teacher: wrapper and fake."""

from typing import Any

import torch
from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind
from s2t_ext.ops.reference.support_kl import SupportKL


def support_kl(
    student_ids: Tensor, student_logits: Tensor, teacher_logits: Tensor, candidate_ids: Tensor
) -> SupportKL:
    """KL(student || teacher) where the student looks, and the teacher's view of the candidates.

    Both distributions are renormalised on the student's support, i.e. on the ids given.

    Args:
        student_ids: int64 [batch, support], 1 to 64 ids in [0, vocab), or -1 for an empty place.
        student_logits: float32 [batch, support]; NaN and -inf count as empty places.
        teacher_logits: float32, bfloat16 or float16 [batch, vocab], last stride 1; NaN counts as
            -inf.
        candidate_ids: int64 [batch, k], 1 to 64 ids in [0, vocab), or -1.

    Returns:
        SupportKL: kl float32 [batch] in nats, 0 for an empty support and +inf where the teacher
        excludes a token the student allows; candidate_logprobs float32 [batch, k], log softmax of
        the teacher's whole row at the candidates, -inf for id -1; teacher_argmax int64 [batch],
        equal logits by lower id, -1 in a row without a valid token. Where logits are +inf the
        first of them has all the mass.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device; an id out of range (CPU only: on other
            devices it counts as -1).

    Source: the divergence trigger and the selection by the teacher of Select to Think (arXiv
    2604.26940).
    """
    return SupportKL._make(
        _op(
            student_ids=student_ids,
            student_logits=student_logits,
            teacher_logits=teacher_logits,
            candidate_ids=candidate_ids,
        )
    )


def _fake(teacher_logits: Tensor, candidate_ids: Tensor, **_: Any) -> tuple[Tensor, ...]:
    batch = teacher_logits.shape[0]
    return (
        teacher_logits.new_empty(batch, dtype=torch.float32),
        teacher_logits.new_empty(candidate_ids.shape, dtype=torch.float32),
        teacher_logits.new_empty(batch, dtype=torch.int64),
    )


_op = bind("support_kl", reference.support_kl, _fake)
