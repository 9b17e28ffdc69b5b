"""From the student's logits to candidates, and to the token of every row that needs no choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from s2t_ext import ops
from s2t_ext.decoding.ordinary_token import OrdinaryToken
from s2t_ext.decoding.plan import Plan
from s2t_ext.decoding.sequences import Sequences
from s2t_ext.ops import ProposedCandidates
from s2t_ext.ops.kernel_dtypes import for_kernels


@dataclass(frozen=True)
class Proposed:
    """What one step proposes.

    Attributes:
        support: The student's best tokens, at least K of them, with log-sum-exp and entropies.
        candidates: The K best of them.
        ordinary: int64 [batch], the tokens without a choice; -1 in a row without a valid logit.
        default: int64 [batch], the same with padding for finished rows and for those.
    """

    support: ProposedCandidates
    candidates: ProposedCandidates
    ordinary: torch.Tensor
    default: torch.Tensor

    def likely(self, ratio: float) -> ProposedCandidates:
        """The candidates with p > ratio * p_max; ids -1 in place of the others. The favourite
        stays.
        """
        found = self.candidates
        if ratio == 0.0:
            return found
        keep = found.logits > found.logits[:, :1] + math.log(ratio)
        return found._replace(
            ids=found.ids.where(keep, -1), logits=found.logits.where(keep, float("-inf"))
        )


class Proposer:
    """Processes logits, proposes candidates and draws the ordinary token; keeps what `generate`
    returns of them.

    Args:
        plan: The options.
        ordinary: How the token of an untriggered row is taken.
        generation_config: Says whether scores and logits are kept.

    Attributes:
        scores: Per step fp32 [batch, V] as transformers records them, or None if not kept.
        raw_logits: Per step the model's own logits, fp32 [batch, V], or None if not kept.
    """

    def __init__(
        self, plan: Plan, ordinary: OrdinaryToken, generation_config: GenerationConfig
    ) -> None:
        self.plan = plan
        self.ordinary = ordinary
        keep, config = generation_config.return_dict_in_generate, generation_config
        self.scores: list[torch.Tensor] | None = [] if keep and config.output_scores else None
        self.raw_logits: list[torch.Tensor] | None = [] if keep and config.output_logits else None
        # A trigger that asks the teacher compares the two on the whole support.
        wide = max(plan.config.k, plan.config.support)
        self._width = wide if plan.trigger.reads_teacher else plan.config.k

    def propose(self, logits: torch.Tensor, sequences: Sequences) -> Proposed:
        """One step's proposal.

        Args:
            logits: The student's, [batch, V].
            sequences: So far; rows without a valid logit stop.
        """
        plan = self.plan
        processed = self._processed(logits, sequences.input_ids)
        support = ops.propose_candidates(
            processed, self._width, plan.config.support, plan.blocked_ids
        )
        ordinary = self.ordinary.choose(
            processed,
            support.ids[:, 0],
            sequences.input_ids,
            seed=plan.seed,
            position=sequences.position,
        )
        invalid = ordinary < 0
        default = ordinary.masked_fill(invalid | sequences.padding_rows(), plan.pad_id)
        sequences.stop_without_logits(invalid)
        return Proposed(support, _first(support, plan.config.k), ordinary, default)

    def _processed(self, logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits after the processors that shape the proposal.

        Without anything to apply or keep, the model's logits go to the kernel as they are: widening
        them to fp32 changes no order and no value.
        """
        untouched = not self.ordinary.processors and not self.ordinary.warpers
        if untouched and self.scores is None and self.raw_logits is None:
            return for_kernels(logits)
        logits = logits.to(copy=True, dtype=torch.float32, device=input_ids.device)
        processed = self.ordinary.process(input_ids, logits)
        if self.raw_logits is not None:
            self.raw_logits.append(logits)
        if self.scores is not None:
            self.scores.append(self.ordinary.scores(input_ids, processed))
        return processed


def _first(support: ProposedCandidates, k: int) -> ProposedCandidates:
    """The k best of what was proposed."""
    if support.ids.shape[1] == k:
        return support
    return support._replace(
        ids=support.ids[:, :k].contiguous(), logits=support.logits[:, :k].contiguous()
    )
