"""Decoding with a teacher as the paper writes it: student and teacher recomputed from the whole
prefix at every step, no cache, one row at a time (arXiv 2604.26940, sections 3.1 and 3.2).

This is the specification of `s2t_ext.generate(..., teacher=...)`: slow, short, and what the
lockstep loop must equal token for token in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from s2t_ext.ops.reference.propose_candidates import ProposedCandidates, propose_candidates
from s2t_ext.ops.reference.support_kl import SupportKL, support_kl
from s2t_ext.reference.decoding import _best_candidate, _inputs, _last_state, _likely
from s2t_ext.selectors.thresholds import resolve_trigger

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from s2t_ext.config import S2TConfig
    from s2t_ext.selectors.selector import Selector


@torch.no_grad()
def decode_with_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    config: S2TConfig,
    selector: Selector | None = None,
    max_new_tokens: int,
    eos_token_ids: Sequence[int] = (),
    pad_token_id: int = 0,
    seed: int = 0,
) -> Tensor:
    """Greedy decoding in which a teacher triggers (`trigger="kl"`), chooses, or both.

    Args:
        student: A causal language model; it may pad its embedding.
        teacher: Another one of the same vocabulary.
        input_ids: int64 [batch, length], left-padded.
        attention_mask: [batch, length], 1 for real tokens.
        config: Options; `score_temperature` must be 0.
        selector: Needed for `select="local"`.
        max_new_tokens: As in `generate`.
        eos_token_ids: As in `generate`.
        pad_token_id: As in `generate`.
        seed: Row b draws its random triggers with seed + b.

    Returns:
        int64 [batch, length + new]; finished rows are filled with `pad_token_id`.
    """
    rows = []
    for b, row in enumerate(input_ids):
        prefix = row if attention_mask is None else row[attention_mask[b].bool()]
        new: list[int] = []
        while len(new) < max_new_tokens and (not new or new[-1] not in eos_token_ids):
            token = _next_token(
                student, teacher, prefix[None], len(new), config, selector, seed + b
            )
            new.append(token)
            prefix = torch.cat([prefix, prefix.new_tensor([token])])
        rows.append(new)
    longest = max(len(row) for row in rows)
    padded = [row + [pad_token_id] * (longest - len(row)) for row in rows]
    return torch.cat([input_ids, input_ids.new_tensor(padded)], dim=1)


def _next_token(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    prefix: Tensor,
    step: int,
    config: S2TConfig,
    selector: Selector | None,
    seed: int,
) -> int:
    trigger = resolve_trigger(config, selector)
    logits, hidden = _last_state(student, prefix)
    blocked = None
    if selector is not None and selector.reserved_ids:
        blocked = torch.tensor(selector.reserved_ids)
    support = propose_candidates(logits, max(config.k, config.support), config.support, blocked)
    proposal = support._replace(
        ids=support.ids[:, : config.k], logits=support.logits[:, : config.k]
    )
    likely = _likely(proposal, config.candidate_ratio)
    answer = _teacher_view(teacher, prefix, support, likely, logits.shape[1])
    inputs = replace(_inputs(proposal, hidden, selector, seed, step), divergence=lambda: answer.kl)
    statistic = trigger.statistic(inputs, step)
    if not bool(trigger.fires(statistic, step)):
        return int(proposal.ids[0, 0])
    if config.select == "takeover":
        return int(answer.teacher_argmax)
    if config.select == "teacher":
        logprobs = answer.candidate_logprobs[0]
        best = int(logprobs.argmax())  # first of equals
        keeps = (
            config.override_margin > 0 and not logprobs[best] - logprobs[0] > config.override_margin
        )
        return int(likely.ids[0, 0 if keeps else best])
    assert selector is not None
    return _best_candidate(student, prefix, likely, selector, config.override_margin)


def _teacher_view(
    teacher: PreTrainedModel,
    prefix: Tensor,
    support: ProposedCandidates,
    proposal: ProposedCandidates,
    vocabulary: int,
) -> SupportKL:
    """The teacher's opinion; embedding rows only one of the models has are no tokens."""
    logits, _ = _last_state(teacher, prefix)
    size = min(vocabulary, logits.shape[1])
    return support_kl(
        support.ids.where(support.ids < size, -1),
        support.logits,
        logits[:, :size],
        proposal.ids.where(proposal.ids < size, -1),
    )
