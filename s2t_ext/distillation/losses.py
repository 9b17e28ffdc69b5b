"""Losses of selector training (paper, section 3.4; design, 2.4), over groups of candidates.

`totals` are the candidates' scores [G, K] (score + prior term), `mask` bool [G, K] says which slots
hold a candidate, `teacher` are the teacher's absolute probabilities [G, K].
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from s2t_ext.runs.number_arguments import normalise_number_fields

LOSSES = ("top1", "kl", "pairwise")

_NEVER = -1e30  # instead of -inf: a masked logit whose gradient must be 0, not NaN


@dataclass(frozen=True)
class LossConfig:
    """What is minimised.

    Raises:
        ValueError: if an option lies outside its range.
    """

    #: top1: cross-entropy of the teacher's favourite + hinge + kl_weight * kl; kl: the last alone;
    #: pairwise: margin loss over all pairs the teacher orders.
    kind: str = "top1"
    #: T of softmax(total / T) in the cross-entropy. Scores lie in [0, 1].
    temperature: float = 0.1
    #: T of softmax(total / T) in the kl term.
    kl_temperature: float = 0.1
    hinge_weight: float = 1.0
    hinge_margin: float = 1.0
    kl_weight: float = 0.1
    #: Gap in total that `pairwise` asks for.
    pair_margin: float = 0.1
    #: Weigh each group by how clearly the teacher prefers its favourite (its normalised
    #: probability minus the runner-up's); weights average 1 over a batch.
    teacher_margin_weighting: bool = False
    #: Weight of KL(base || adapted) on the prefix tokens, over the vocabulary without reserved ids.
    base_kl_weight: float = 0.1
    #: Weight of KL(teacher || adapted) at the response's steps, over the tokens that
    #: `collect(teacher_topk=...)` has kept and all others as one: on-policy distillation.
    teacher_kl_weight: float = 0.0
    #: Weight of the negative log-likelihood of the response's own tokens: supervised fine-tuning on
    #: the rollouts.
    sft_weight: float = 0.0
    #: Weight of the trigger head's binary cross-entropy.
    trigger_weight: float = 1.0

    def __post_init__(self) -> None:
        normalise_number_fields(self)
        if self.kind not in LOSSES:
            raise ValueError(
                f"LossConfig: kind must be one of {', '.join(LOSSES)}, got {self.kind}"
            )
        for name in ("temperature", "kl_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"LossConfig: {name} must be above 0, got {getattr(self, name)}")
        for name, value in asdict(self).items():
            if name.endswith("weight") and value < 0:
                raise ValueError(f"LossConfig: {name} must be at least 0, got {value}")

    @property
    def trains_responses(self) -> bool:
        """Whether a term draws the model towards other tokens than its own."""
        return self.teacher_kl_weight > 0 or self.sft_weight > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def group_loss(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    """Sum over the groups of their losses, weighted if `config` says so; divide by the groups of a
    whole optimiser step to get its mean.
    """
    if config.kind == "kl":
        losses = kl_to_teacher(totals, mask, teacher, config.kl_temperature)
    elif config.kind == "pairwise":
        losses = pairwise_margin(totals, mask, teacher, config.pair_margin)
    else:
        losses = top1_cross_entropy(totals, mask, teacher, config.temperature)
        losses = losses + config.hinge_weight * hinge(totals, mask, teacher, config.hinge_margin)
        kl = kl_to_teacher(totals, mask, teacher, config.kl_temperature)
        losses = losses + config.kl_weight * kl
    if config.teacher_margin_weighting:
        losses = losses * teacher_margin(mask, teacher)
    return losses.sum()


def top1_cross_entropy(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """-log softmax(totals / T) at the teacher's favourite."""
    log_q = (totals / temperature).masked_fill(~mask, _NEVER).log_softmax(dim=1)
    return -log_q.gather(1, favourite(mask, teacher)[:, None]).squeeze(1)


def hinge(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, margin: float
) -> torch.Tensor:
    """max(0, margin - (total of the favourite - best other total)); 0 for a lone candidate."""
    best = favourite(mask, teacher)[:, None]
    others = mask.scatter(1, best, False)
    hardest = totals.masked_fill(~others, _NEVER).max(dim=1).values
    gap = totals.gather(1, best).squeeze(1) - hardest
    return torch.where(others.any(dim=1), (margin - gap).clamp(min=0), 0.0)


def kl_to_teacher(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(teacher renormalised on the candidates || softmax(totals / T)), nats."""
    log_q = (totals / temperature).masked_fill(~mask, _NEVER).log_softmax(dim=1)
    p = normalised(mask, teacher).to(log_q.dtype)
    divergence: torch.Tensor = torch.special.xlogy(p, p) - p * log_q.masked_fill(~mask, 0.0)
    return divergence.sum(dim=1)


def pairwise_margin(
    totals: torch.Tensor, mask: torch.Tensor, teacher: torch.Tensor, margin: float
) -> torch.Tensor:
    """Mean over pairs (i, j) with p_i > p_j of (p_i - p_j) max(0, margin - (total_i - total_j))."""
    p = normalised(mask, teacher).to(totals.dtype)
    weight = (p[:, :, None] - p[:, None, :]).clamp(min=0)
    weight = weight * (mask[:, :, None] & mask[:, None, :])
    gap = totals[:, :, None] - totals[:, None, :]
    loss = (weight * (margin - gap).clamp(min=0)).sum(dim=(1, 2))
    return loss / weight.sum(dim=(1, 2)).clamp(min=1e-12)


def favourite(mask: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Slot [G] of the candidate the teacher likes best; the first of equals."""
    return teacher.masked_fill(~mask, -1.0).argmax(dim=1)


def normalised(mask: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The teacher's distribution on the candidates; uniform where it gives all of them nothing."""
    p = teacher.double() * mask
    total = p.sum(dim=1, keepdim=True)
    uniform = mask.double() / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, p / total.clamp(min=1e-300), uniform)


def teacher_margin(mask: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Favourite's minus runner-up's probability [G], divided by its mean over the groups."""
    p = normalised(mask, teacher)
    top = F.pad(p, (0, 1)).topk(2, dim=1).values
    margin = top[:, 0] - top[:, 1]
    return margin / margin.mean().clamp(min=1e-12)


def base_kl(
    base_logits: torch.Tensor, adapted_logits: torch.Tensor, reserved_ids: torch.Tensor | None
) -> torch.Tensor:
    """Sum over rows of KL(base || adapted) [N, V], both over the vocabulary without
    `reserved_ids`.
    """
    base_logits = _without(base_logits, reserved_ids)
    adapted_logits = _without(adapted_logits, reserved_ids)
    log_p = _at_least_fp32(base_logits).log_softmax(dim=1)
    log_q = _at_least_fp32(adapted_logits).log_softmax(dim=1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def teacher_kl(
    logits: torch.Tensor,
    ids: torch.Tensor,
    logprobs: torch.Tensor,
    reserved_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum over rows of KL(teacher || adapted) of the distributions over the teacher's N likeliest
    tokens and, as one bucket, all others: a lower bound of the divergence over the vocabulary, and
    equal to it for N = V (generalized knowledge distillation: Agarwal et al., ICLR 2024).

    Args:
        logits: [S, V], the adapted model's.
        ids: int64 [S, N].
        logprobs: [S, N + 1], the teacher's log-probabilities of these and of all others together;
            -inf for a place without a token, whose id repeats another one. Normalised here.
        reserved_ids: int64, left out of both distributions; of the teacher's where they are listed.
    """
    logits = _at_least_fp32(_without(logits, reserved_ids))
    if reserved_ids is not None and reserved_ids.numel():
        listed = F.pad(torch.isin(ids, reserved_ids), (0, 1))
        logprobs = logprobs.masked_fill(listed, float("-inf"))
    p = logprobs.to(logits.dtype).softmax(dim=1)
    others = logits.scatter(1, ids, _NEVER).logsumexp(dim=1, keepdim=True)
    total = logits.logsumexp(dim=1, keepdim=True)
    log_q = torch.cat([logits.gather(1, ids), others], dim=1) - total
    divergence: torch.Tensor = torch.special.xlogy(p, p) - p * log_q
    return divergence.sum()


def response_nll(
    logits: torch.Tensor, response: torch.Tensor, reserved_ids: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over rows of -log softmax(logits)[response]; logits [S, V], response int64 [S]."""
    logits = _at_least_fp32(_without(logits, reserved_ids))
    return F.cross_entropy(logits, response, reduction="sum")


def trigger_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of binary cross-entropies [S] of "the divergence is above its threshold", with the rare
    class weighted up to balance.
    """
    labels = labels.to(logits.dtype)
    positive = labels.sum()
    weight = ((labels.numel() - positive) / positive.clamp(min=1)).clamp(1, 100)
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight, reduction="sum")


def _without(logits: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """The logits with those of `ids` so low that they count for nothing."""
    if ids is None or not ids.numel():
        return logits
    return logits.index_fill(1, ids, _NEVER)


def _at_least_fp32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
