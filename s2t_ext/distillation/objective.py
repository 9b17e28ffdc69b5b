"""The training objective of a batch of packed trajectories."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from s2t_ext.distillation.groups import Trajectory
from s2t_ext.distillation.losses import LossConfig, base_kl, group_loss, trigger_loss
from s2t_ext.distillation.packing import PackedBatch, PackedModel
from s2t_ext.distillation.score_head import ScoreHead
from s2t_ext.hf.adapters import AdapterSwitch

#: Rows of the vocabulary-wide logits held at a time.
LOGIT_ROWS = 256


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
            sum(len(t.kl) for t in trajectories),
        )


@dataclass
class Objective:
    """The terms of a loss, each already divided and weighted; `total` is their sum."""

    groups: torch.Tensor
    base_kl: torch.Tensor
    trigger: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What is minimised."""
        return self.groups + self.base_kl + self.trigger


@dataclass
class ObjectiveMaker:
    """Computes objectives of one model and score head.

    Attributes:
        model: PEFT-wrapped (then the base is the model with its adapter off), or plain.
        base: A frozen copy for full fine-tuning; None takes the adapter off, or, without an
            adapter, leaves the base term out.
        trigger_threshold: A step whose kl exceeds it is a positive of the trigger head.
        reserved_ids: Left out of the base term.
    """

    model: nn.Module
    head: ScoreHead
    config: LossConfig
    trigger_threshold: float = float("inf")
    base: nn.Module | None = None
    reserved_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.packed = PackedModel(self.model, self.head.layer)
        self._switch: AdapterSwitch | None = None
        with contextlib.suppress(ValueError):  # no adapter
            self._switch = AdapterSwitch(self.packed.plain)
        self._base_packed = PackedModel(self.base) if self.base is not None else None

    @property
    def has_base_term(self) -> bool:
        """Whether KL(base || adapted) is part of the loss."""
        has_base = self._switch is not None or self._base_packed is not None
        return has_base and self.config.base_kl_weight > 0

    def packed_objective(self, batch: PackedBatch, counts: Counts) -> Objective:
        """One forward pass for all groups of the batch."""
        scored, hidden = self.packed.states(batch)
        base = hidden.new_zeros(())
        if self.has_base_term:
            length = int(batch.layout.prefix.max())
            mask = batch.prefix_mask[:, :length]
            base = self.base_term(batch.input_ids[:, :length], mask, hidden[:, :length][mask])
        totals = self.head.totals(batch.candidate_states(scored), batch.student_logprobs)
        return self.objective(batch, totals, base, batch.step_states(hidden), counts)

    def objective_of_states(
        self,
        batch: PackedBatch,
        candidate_states: torch.Tensor,
        step_states: torch.Tensor,
        counts: Counts,
    ) -> Objective:
        """The objective without its base term, of states [G, K, D] and [S, D] that are known."""
        totals = self.head.totals(candidate_states, batch.student_logprobs)
        return self.objective(batch, totals, totals.new_zeros(()), step_states, counts)

    def objective(
        self,
        batch: PackedBatch,
        totals: torch.Tensor,
        base: torch.Tensor,
        step_states: torch.Tensor,
        counts: Counts,
    ) -> Objective:
        """The weighted means of the terms.

        Args:
            batch: Where the labels are.
            totals: [G, K], of the candidates.
            base: Sum of the base term over the prefix tokens.
            step_states: [S, D], before each labelled token.
            counts: What the sums are divided by.
        """
        groups = group_loss(totals, batch.candidate_mask, batch.teacher_probs, self.config)
        trigger = self._trigger_term(batch, step_states)
        return Objective(
            groups / max(counts.groups, 1),
            self.config.base_kl_weight * base / max(counts.prefix_tokens, 1),
            self.config.trigger_weight * trigger / max(counts.steps, 1),
        )

    def _trigger_term(self, batch: PackedBatch, states: torch.Tensor) -> torch.Tensor:
        if not states.shape[0] or self.config.trigger_weight == 0:
            return torch.zeros((), device=states.device)
        labels = batch.step_kl > self.trigger_threshold
        return trigger_loss(self.head.trigger_logits(states), labels)

    def base_term(
        self, ids: torch.Tensor, mask: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Sum of KL(base || adapted) over the prefix tokens; logits are made and freed in
        pieces.
        """
        base_hidden = self._base_hidden(ids, mask)
        reserved = torch.tensor(list(self.reserved_ids), dtype=torch.int64, device=ids.device)
        logits = self.packed.head.logits
        base_logits = (self._base_packed or self.packed).head.logits

        def piece(base_rows: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            with self._base_model(), torch.no_grad():
                expected = base_logits(base_rows)
            return base_kl(expected, logits(rows), reserved)

        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for begin in range(0, hidden.shape[0], LOGIT_ROWS):
            own = slice(begin, begin + LOGIT_ROWS)
            if self._head_is_trained:
                value = checkpoint(piece, base_hidden[own], hidden[own], use_reentrant=False)
            else:
                value = _WithGradient.apply(piece, base_hidden[own], hidden[own])  # type: ignore[no-untyped-call]
            total = total + value
        return total

    @property
    def _head_is_trained(self) -> bool:
        embeddings = self.packed.plain.get_output_embeddings()
        return any(p.requires_grad for p in embeddings.parameters())

    @torch.no_grad()
    def _base_hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[N, D]: what the base model's head reads at the prefix tokens; one pass, without
        dropout.
        """
        packed = self._base_packed or self.packed
        training = packed.plain.training
        packed.plain.eval()
        with self._base_model():
            # Right padding under a causal mask: no real token sees any of it.
            hidden = packed.plain_hidden_states(ids)[mask]
        packed.plain.train(training)
        return hidden

    def _base_model(self) -> contextlib.AbstractContextManager[None]:
        if self._base_packed is not None or self._switch is None:
            return contextlib.nullcontext()
        return self._switch.off()


class _WithGradient(torch.autograd.Function):
    """f(constant, x), a scalar, with its gradient by x taken at once: x is small and what lies
    between it and the scalar (logits over the vocabulary) is large, so nothing of that is kept
    for, or computed again in, the backward pass. f must depend on nothing else that is trained.
    """

    @staticmethod
    def forward(ctx: Any, f: Any, constant: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value: torch.Tensor = f(constant, x)
        ctx.save_for_backward(*torch.autograd.grad(value, x))
        return value.detach()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[None, None, torch.Tensor]:
        (gradient,) = ctx.saved_tensors
        return None, None, upstream.to(gradient.dtype) * gradient
