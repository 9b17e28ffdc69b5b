"""Packed trajectories: one forward pass that holds a rollout and all its candidates (design, 8).

    row = [prompt, response | K candidates of step a | K candidates of step b | ... | padding]

A candidate stands at its step's position; it sees the prefix before its step and itself. So its
hidden state is the one that prefix + candidate, recomputed alone, would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from s2t_ext.distillation.groups import Trajectory, has_top_logprobs, packed_length
from s2t_ext.hf.attention.candidate_attention import attention_configs, candidate_attention
from s2t_ext.hf.layer_trace import decoder_layer, tracing_layer
from s2t_ext.hf.logits_head import find_logits_head
from s2t_ext.hf.unwrapping import unwrap_model


@dataclass
class PackedLayout:
    """Who sees whom; an `AttentionLayout`.

    Attributes:
        visible: int64 [batch, length]: how many tokens of its row's prefix a token sees (a prefix
            token those up to itself, a candidate those before its step, padding none). Every token
            also sees itself.
        position: int64 [batch, length]: positions; of prefix tokens also their columns.
        prefix: int64 [batch]: prefix tokens of each row.
    """

    visible: torch.Tensor
    position: torch.Tensor
    prefix: torch.Tensor
    #: Training leaves no slot out.
    ragged: None = field(default=None, init=False)
    #: Prefix tokens are among the queries.
    unmasked_candidates: int = field(default=0, init=False)
    _masks: dict[tuple[int | None, int], torch.Tensor] = field(default_factory=dict)

    @property
    def num_queries(self) -> int:
        """Length of the rows."""
        return self.visible.shape[1]

    def allowed(
        self, keys: int, window: int | None, groups: int, device: torch.device
    ) -> torch.Tensor:
        """See `AttentionLayout`; built once per batch and window."""
        if keys != self.num_queries:
            raise ValueError(
                f"packed forward: cache must be empty, got {keys - self.num_queries} cached tokens"
            )
        if (window, groups) not in self._masks:
            self._masks[window, groups] = self._build(window, groups, device)
        return self._masks[window, groups]

    def _build(self, window: int | None, groups: int, device: torch.device) -> torch.Tensor:
        column = torch.arange(self.num_queries, device=device)
        visible, position = self.visible.to(device), self.position.to(device)
        # `visible` never exceeds the row's prefix, and prefix columns are positions.
        allowed = column[None, None, :] < visible[:, :, None]
        if window is not None:
            allowed &= column[None, None, :] > position[:, :, None] - window
        allowed |= torch.eye(self.num_queries, dtype=torch.bool, device=device)
        return allowed[:, None].repeat(1, 1, groups, 1)


@dataclass
class PackedBatch:
    """Trajectories ready for one forward pass. G groups, K = the most candidates of any group.

    Attributes:
        input_ids: int64 [batch, length].
        position_ids: int64 [batch, length].
        layout: Who sees whom.
        prefix_mask: Bool [batch, length]: prompt and response tokens.
        group_row: int64 [G].
        candidates: int64 [G, K], columns of the candidates (0 where there is none).
        candidate_mask: Bool [G, K].
        student_logprobs: fp32 [G, K]; -inf where there is no candidate.
        teacher_probs: fp32 [G, K]; 0 where there is no candidate.
        step_row: int64 [S], row of the state before each response token of
            `Trajectory.num_steps`.
        step_column: int64 [S], its column.
        step_kl: fp32 [S], nats; NaN where it is unknown.
        step_entropy: fp32 [S], nats.
        step_logprobs: fp32 [S, n], `Trajectory.top_logprobs`, nats; n is 0 where a trajectory with
            known divergences has none.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    layout: PackedLayout
    prefix_mask: torch.Tensor
    group_row: torch.Tensor
    candidates: torch.Tensor
    candidate_mask: torch.Tensor
    student_logprobs: torch.Tensor
    teacher_probs: torch.Tensor
    step_row: torch.Tensor
    step_column: torch.Tensor
    step_kl: torch.Tensor
    step_entropy: torch.Tensor
    step_logprobs: torch.Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """The batch on `device`."""
        values = {}
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                values[name] = value.to(device)
        layout = PackedLayout(
            self.layout.visible.to(device),
            self.layout.position.to(device),
            self.layout.prefix.to(device),
        )
        return PackedBatch(layout=layout, **values)

    def candidate_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """[G, K, D]: the states after each candidate, of hidden states [batch, length, D]."""
        return hidden[self.group_row[:, None], self.candidates]

    def step_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, D]: the states before the steps that terms over tokens look at."""
        return hidden[self.step_row, self.step_column]


def pack(trajectories: Sequence[Trajectory], pad_id: int = 0) -> PackedBatch:
    """Packs trajectories, one a row, padded on the right to the longest.

    Raises:
        ValueError: without trajectories.
    """
    if not trajectories:
        raise ValueError("pack: trajectories must hold at least one, got none")
    batch, length = len(trajectories), max(packed_length(t) for t in trajectories)
    ids = torch.full((batch, length), pad_id, dtype=torch.int64)
    position = torch.zeros_like(ids)
    visible = torch.zeros_like(ids)
    groups: list[tuple[int, int, Any]] = []
    steps: list[tuple[int, int, float, float]] = []
    for row, trajectory in enumerate(trajectories):
        prompt, prefix = len(trajectory.prompt), trajectory.prefix_length
        tokens = (*trajectory.prompt, *trajectory.response)[:prefix]
        ids[row, :prefix] = torch.tensor(tokens)
        position[row, :prefix] = torch.arange(prefix)
        visible[row, :prefix] = torch.arange(1, prefix + 1)
        column = prefix
        for group in trajectory.groups:
            own = slice(column, column + len(group.candidates))
            ids[row, own] = torch.tensor(group.candidates)
            position[row, own] = visible[row, own] = prompt + group.step
            groups.append((row, column, group))
            column = own.stop
        for step in range(trajectory.num_steps):
            kl = trajectory.kl[step] if trajectory.kl else float("nan")
            entropy = trajectory.entropy[step] if trajectory.entropy else float("nan")
            steps.append((row, prompt + step - 1, kl, entropy))
    prefix_lengths = torch.tensor([t.prefix_length for t in trajectories])
    columns = torch.arange(length)
    return PackedBatch(
        input_ids=ids,
        position_ids=position,
        layout=PackedLayout(visible, position, prefix_lengths),
        prefix_mask=columns[None] < prefix_lengths[:, None],
        step_row=torch.tensor([s[0] for s in steps], dtype=torch.int64),
        step_column=torch.tensor([s[1] for s in steps], dtype=torch.int64),
        step_kl=torch.tensor([s[2] for s in steps], dtype=torch.float32),
        step_entropy=torch.tensor([s[3] for s in steps], dtype=torch.float32),
        step_logprobs=_step_logprobs([t for t in trajectories if t.num_steps]),
        **_group_tensors(groups),
    )


def _step_logprobs(trajectories: Sequence[Trajectory]) -> torch.Tensor:
    if not has_top_logprobs(trajectories):
        return torch.zeros(sum(t.num_steps for t in trajectories), 0)
    return torch.tensor([step for t in trajectories for step in t.top_logprobs])


def _group_tensors(groups: list[tuple[int, int, Any]]) -> dict[str, torch.Tensor]:
    most = max((len(group.candidates) for *_, group in groups), default=1)
    shape = (len(groups), most)
    result = {
        "group_row": torch.tensor([g[0] for g in groups], dtype=torch.int64),
        "candidates": torch.zeros(shape, dtype=torch.int64),
        "candidate_mask": torch.zeros(shape, dtype=torch.bool),
        "student_logprobs": torch.full(shape, float("-inf")),
        "teacher_probs": torch.zeros(shape),
    }
    for i, (_, column, group) in enumerate(groups):
        count = len(group.candidates)
        result["candidates"][i, :count] = torch.arange(column, column + count)
        result["candidate_mask"][i, :count] = True
        result["student_logprobs"][i, :count] = torch.tensor(group.student_logprobs)
        result["teacher_probs"][i, :count] = torch.tensor(group.teacher_probs)
    return result


class PackedModel:
    """Runs packed batches through a causal language model, PEFT-wrapped or not; gradients flow.

    Args:
        model: The model.
        layer: The decoder layer whose states are scored (`Selector.layer`); None: what the head
            reads.

    Raises:
        ValueError: if the model's body cannot be told from its head (`find_logits_head`), or has no
            such layer.
    """

    def __init__(self, model: nn.Module, layer: int | None = None) -> None:
        self.layer = layer
        self._traced = None if layer is None else decoder_layer(model, layer)
        self.plain = unwrap_model(model)
        training = self.plain.training
        self.plain.eval()
        head = find_logits_head(self.plain)
        self.plain.train(training)
        if head.body is None:
            raise ValueError(
                "distill: model must have a body whose last hidden state its head reads, got "
                f"{type(self.plain).__name__}"
            )
        self.head = head
        self._configs = attention_configs(self.plain)

    def states(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(what is scored, what the head reads) at every token of the packed rows, [batch, length,
        D] each.
        """
        if self._traced is None:
            hidden = self.hidden_states(batch)
            return hidden, hidden
        with tracing_layer(self._traced) as trace:
            hidden = self.hidden_states(batch)
        return trace.hidden, hidden

    def plain_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What is scored at every token of ordinary right-padded rows, [batch, length, D]."""
        if self._traced is None:
            return self.plain_hidden_states(input_ids, attention_mask)
        with tracing_layer(self._traced) as trace:
            self.plain_hidden_states(input_ids, attention_mask)
        return trace.hidden

    def hidden_states(self, batch: PackedBatch) -> torch.Tensor:
        """What the head reads, [batch, length, D], at every token of the packed rows."""
        assert self.head.body is not None
        with candidate_attention(self._configs, batch.layout):
            output = self.head.body(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def plain_hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same of ordinary right-padded rows; the unpacked reference is built on it."""
        assert self.head.body is not None
        output = self.head.body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden
