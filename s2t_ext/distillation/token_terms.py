"""Terms of the objective over the tokens of the prefixes: near the base model, towards the teacher,
or towards the responses themselves. Logits over the vocabulary are made and freed in pieces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from s2t_ext.distillation.data.teacher_tokens import TeacherTokens
from s2t_ext.distillation.groups import Trajectory
from s2t_ext.distillation.losses import base_kl, response_nll, teacher_kl
from s2t_ext.distillation.packing import PackedModel
from s2t_ext.hf.adapters import AdapterSwitch
from s2t_ext.teachers.labels import TopTokens

#: Rows of the vocabulary-wide logits held at a time.
LOGIT_ROWS = 256


class StepLabels(NamedTuple):
    """What the steps of a batch are trained towards; S of them, in the order of `pack`.

    Attributes:
        response: int64 [S], the token that follows in the rollout.
        teacher: The teacher's likeliest tokens, if they are known.
    """

    response: torch.Tensor
    teacher: TopTokens | None

    @classmethod
    def of(
        cls,
        batch: Sequence[Trajectory],
        tokens: TeacherTokens | None,
        device: torch.device | str = "cpu",
    ) -> StepLabels:
        """The labels of a batch, of the steps that `Trajectory.num_steps` counts."""
        known = [t for t in batch if t.num_steps]
        response = torch.tensor([token for t in known for token in t.response], dtype=torch.int64)
        teacher = None
        if tokens is not None:
            teacher = TopTokens._make(part.to(device) for part in tokens.of(known))
        return cls(response.to(device), teacher)


@dataclass(frozen=True)
class TokenSums:
    """Sums over tokens, not yet weighted or divided.

    Attributes:
        base_kl: KL(base || adapted) over the prefix tokens.
        teacher_kl: KL(teacher || adapted) over the response steps.
        sft: Negative log-likelihood of the response's own tokens.
    """

    base_kl: torch.Tensor
    teacher_kl: torch.Tensor
    sft: torch.Tensor


class TokenTerms:
    """Computes the sums of one model.

    Args:
        packed: The trained model.
        base: A frozen copy for full fine-tuning; None takes the adapter off.
        reserved_ids: Left out of the vocabulary.
    """

    def __init__(
        self, packed: PackedModel, base: nn.Module | None = None, reserved_ids: Sequence[int] = ()
    ) -> None:
        self._packed = packed
        self._reserved = torch.tensor(list(reserved_ids), dtype=torch.int64)
        self._switch: AdapterSwitch | None = None
        with contextlib.suppress(ValueError):  # no adapter
            self._switch = AdapterSwitch(packed.plain)
        self._base = PackedModel(base) if base is not None else None

    @property
    def has_base(self) -> bool:
        """Whether there is a base model to compare with."""
        return self._switch is not None or self._base is not None

    def base_kl(self, ids: torch.Tensor, mask: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Sum of KL(base || adapted).

        Args:
            ids: int64 [batch, length], right-padded rows.
            mask: Bool [batch, length], their N tokens.
            hidden: [N, D], what the adapted model's head reads at these.
        """
        base_logits = (self._base or self._packed).head.logits
        reserved = self._reserved.to(hidden.device)

        def piece(rows: torch.Tensor, base_rows: torch.Tensor) -> torch.Tensor:
            with self._base_model(), torch.no_grad():
                expected = base_logits(base_rows)
            return base_kl(expected, self._logits(rows), reserved)

        return self._in_pieces(piece, hidden, self._base_hidden(ids, mask))

    def teacher_kl(self, hidden: torch.Tensor, top: TopTokens) -> torch.Tensor:
        """Sum of KL(teacher || adapted) over the steps whose states are `hidden`, [S, D]."""
        reserved = self._reserved.to(hidden.device)

        def piece(rows: torch.Tensor, ids: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
            return teacher_kl(self._logits(rows), ids, logprobs, reserved)

        return self._in_pieces(piece, hidden, *top)

    def sft(self, hidden: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
        """Sum of the negative log-likelihoods of `response`, [S], after the states [S, D]."""
        reserved = self._reserved.to(hidden.device)

        def piece(rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            return response_nll(self._logits(rows), tokens, reserved)

        return self._in_pieces(piece, hidden, response)

    def _logits(self, rows: torch.Tensor) -> torch.Tensor:
        return self._packed.head.logits(rows)

    def _in_pieces(
        self, piece: Callable[..., torch.Tensor], hidden: torch.Tensor, *constants: torch.Tensor
    ) -> torch.Tensor:
        """Sum of piece(rows of hidden, rows of each constant) over all rows."""
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for begin in range(0, hidden.shape[0], LOGIT_ROWS):
            own = [rows[begin : begin + LOGIT_ROWS] for rows in (hidden, *constants)]
            if self._head_is_trained:
                value = checkpoint(piece, *own, use_reentrant=False)
            else:
                value = _WithGradient.apply(piece, *own)  # type: ignore[no-untyped-call]
            total = total + value
        return total

    @property
    def _head_is_trained(self) -> bool:
        embeddings = self._packed.plain.get_output_embeddings()
        return any(p.requires_grad for p in embeddings.parameters())

    @torch.no_grad()
    def _base_hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[N, D]: what the base model's head reads at the prefix tokens; one pass, without
        dropout.
        """
        packed = self._base or self._packed
        training = packed.plain.training
        packed.plain.eval()
        with self._base_model():
            # Right padding under a causal mask: no real token sees any of it.
            hidden = packed.plain_hidden_states(ids)[mask]
        packed.plain.train(training)
        return hidden

    def _base_model(self) -> contextlib.AbstractContextManager[None]:
        if self._base is not None or self._switch is None:
            return contextlib.nullcontext()
        return self._switch.off()


class _WithGradient(torch.autograd.Function):
    """f(x, constants), a scalar, with its gradient by x taken at once: x is small and what lies
    between it and the scalar (logits over the vocabulary) is large, so nothing of that is kept
    for, or computed again in, the backward pass. f must depend on nothing else that is trained.
    """

    @staticmethod
    def forward(ctx: Any, f: Any, x: torch.Tensor, *constants: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value: torch.Tensor = f(x, *constants)
        ctx.save_for_backward(*torch.autograd.grad(value, x))
        ctx.constants = len(constants)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None, upstream.to(gradient.dtype) * gradient, *[None] * ctx.constants
