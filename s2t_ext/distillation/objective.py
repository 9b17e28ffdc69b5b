"""The training objective of a batch of packed trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn

from s2t_ext.distillation.groups import Trajectory
from s2t_ext.distillation.losses import LossConfig, group_loss, trigger_loss
from s2t_ext.distillation.packing import PackedBatch, PackedModel
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.distillation.token_terms import StepLabels, TokenSums, TokenTerms


@dataclass(frozen=True)
class Counts:
    """What the sums of an objective are divided by: totals of a whole optimiser step."""

    groups: int
    prefix_tokens: int
    steps: int

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Counts:
        """The counts of some trajectories."""
        return cls(
            sum(len(t.groups) for t in trajectories),
            sum(t.prefix_length for t in trajectories),
            sum(t.num_steps for t in trajectories),
        )


@dataclass
class Objective:
    """The terms of a loss, each already divided and weighted; `total` is their sum."""

    groups: torch.Tensor
    base_kl: torch.Tensor
    teacher_kl: torch.Tensor
    sft: torch.Tensor
    trigger: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What is minimised."""
        return self.groups + self.base_kl + self.teacher_kl + self.sft + self.trigger

    @classmethod
    def names(cls) -> list[str]:
        """Of the terms."""
        return [field.name for field in fields(cls)]

    def values(self) -> torch.Tensor:
        """fp32 [terms], on the CPU, in the order of `names`."""
        return torch.tensor([float(getattr(self, name).detach()) for name in self.names()])


@dataclass
class ObjectiveMaker:
    """Computes objectives of one model and score head.

    Attributes:
        model: PEFT-wrapped (then the base is the model with its adapter off), or plain.
        base: A frozen copy for full fine-tuning; None takes the adapter off, or, without an
            adapter, leaves the base term out.
        trigger_threshold: A step whose kl exceeds it is a positive of the trigger head.
        reserved_ids: Left out of the vocabulary in the terms over tokens.
    """

    model: nn.Module
    head: ScoreHead
    config: LossConfig
    trigger_threshold: float = float("inf")
    base: nn.Module | None = None
    reserved_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.packed = PackedModel(self.model, self.head.layer)
        self.tokens = TokenTerms(self.packed, self.base, self.reserved_ids)

    @property
    def has_base_term(self) -> bool:
        """Whether KL(base || adapted) is part of the loss."""
        return self.tokens.has_base and self.config.base_kl_weight > 0

    def packed_objective(
        self, batch: PackedBatch, counts: Counts, labels: StepLabels | None = None
    ) -> Objective:
        """One forward pass for all groups of the batch.

        Args:
            batch: Where the groups are.
            counts: What the sums are divided by.
            labels: For the terms over the responses.
        """
        scored, hidden = self.packed.states(batch)
        steps = batch.step_states(hidden)
        sums = self._token_sums(batch, hidden, steps, labels)
        # Scores lie in [0, 1]: they and the losses keep their precision under autocast.
        with torch.autocast(hidden.device.type, enabled=False):
            totals = self.head.totals(batch.candidate_states(scored), batch.student_logprobs)
            return self.objective(batch, totals, sums, steps, counts)

    def objective_of_states(
        self,
        batch: PackedBatch,
        candidate_states: torch.Tensor,
        step_states: torch.Tensor,
        counts: Counts,
    ) -> Objective:
        """The objective without terms over tokens, of known states [G, K, D] and [S, D]."""
        totals = self.head.totals(candidate_states, batch.student_logprobs)
        zero = totals.new_zeros(())
        return self.objective(batch, totals, TokenSums(zero, zero, zero), step_states, counts)

    def _token_sums(
        self,
        batch: PackedBatch,
        hidden: torch.Tensor,
        steps: torch.Tensor,
        labels: StepLabels | None,
    ) -> TokenSums:
        base = teacher = sft = hidden.new_zeros(())
        if self.has_base_term:
            length = int(batch.layout.prefix.max())
            mask = batch.prefix_mask[:, :length]
            ids = batch.input_ids[:, :length]
            base = self.tokens.base_kl(ids, mask, hidden[:, :length][mask])
        if labels is not None and labels.teacher is not None and self.config.teacher_kl_weight > 0:
            teacher = self.tokens.teacher_kl(steps, labels.teacher)
        if labels is not None and self.config.sft_weight > 0:
            sft = self.tokens.sft(steps, labels.response)
        return TokenSums(base, teacher, sft)

    def objective(
        self,
        batch: PackedBatch,
        totals: torch.Tensor,
        sums: TokenSums,
        step_states: torch.Tensor,
        counts: Counts,
    ) -> Objective:
        """The weighted means of the terms.

        Args:
            batch: Where the labels are.
            totals: [G, K], of the candidates.
            sums: Of the terms over tokens.
            step_states: [S, D], before each labelled token.
            counts: What the sums are divided by.
        """
        groups = group_loss(totals, batch.candidate_mask, batch.teacher_probs, self.config)
        trigger = self._trigger_term(batch, step_states)
        config, steps = self.config, max(counts.steps, 1)
        return Objective(
            groups / max(counts.groups, 1),
            config.base_kl_weight * sums.base_kl / max(counts.prefix_tokens, 1),
            config.teacher_kl_weight * sums.teacher_kl / steps,
            config.sft_weight * sums.sft / steps,
            config.trigger_weight * trigger / steps,
        )

    def _trigger_term(self, batch: PackedBatch, states: torch.Tensor) -> torch.Tensor:
        if not states.shape[0] or self.config.trigger_weight == 0:
            return torch.zeros((), device=states.device)
        labels = batch.step_kl > self.trigger_threshold
        logits = self.head.trigger_logits(states, batch.step_entropy, batch.step_logprobs)
        return trigger_loss(logits, labels)


class TrainedObjective(nn.Module):
    """An objective as the forward pass of a module, which is what accelerate wraps: for gradients
    over several processes, and for mixed precision.
    """

    def __init__(self, maker: ObjectiveMaker) -> None:
        super().__init__()
        self.model, self.head = maker.model, maker.head
        self._maker = maker

    def forward(
        self,
        batch: PackedBatch,
        counts: Counts,
        labels: StepLabels | None,
        states: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(total, to be differentiated; fp32 [terms], on the CPU) of a batch.

        Args:
            batch: Packed.
            counts: What the sums are divided by.
            labels: For the terms over the responses.
            states: [G, K, D] and [S, D], where they are known; None runs the model.
        """
        if states is None:
            objective = self._maker.packed_objective(batch, counts, labels)
        else:
            objective = self._maker.objective_of_states(batch, *states, counts)
        return objective.total, objective.values()
