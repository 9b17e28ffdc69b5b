"""A teacher in this process: a transformers model, run in lockstep with the student or once over a
whole trajectory.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin

from s2t_ext import ops
from s2t_ext.hf.adapters import adapter_layers, unswitched
from s2t_ext.hf.cache_argument import STATE_NAMES, cache_name_of, cache_of
from s2t_ext.hf.hooks import is_compiled
from s2t_ext.hf.identity import (
    check_positions,
    check_vocabulary_sizes,
    position_limit,
    vocabulary_size,
)
from s2t_ext.hf.logits_head import find_logits_head, gapless_head_input, output_head
from s2t_ext.hf.model_state import input_device
from s2t_ext.hf.trajectory import CHUNK, logits_of, trajectory_logits
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.ops import SupportKL
from s2t_ext.ops.kernel_dtypes import for_kernels
from s2t_ext.teachers.base import Teacher, TeacherSession, check_first
from s2t_ext.teachers.labels import TopTokens, TrajectoryLabels, top_tokens

if TYPE_CHECKING:
    from s2t_ext.hf.context import CandidateContext


class ModelTeacher(Teacher, kind="model"):
    """See `Teacher.from_model`."""

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        self.model = unwrap_model(model)
        self.tokenizer = tokenizer
        if not isinstance(self.model, GenerationMixin):
            raise ValueError(
                "Teacher.from_model: model must be a causal language model of transformers, got "
                f"{type(self.model).__name__}"
            )
        if self.model.config.is_encoder_decoder:
            raise ValueError(
                f"Teacher.from_model: model must be decoder-only, got {type(self.model).__name__}"
            )
        if not self.model.config.return_dict:
            raise ValueError(
                "Teacher.from_model: model must return its outputs by name (set "
                "model.config.return_dict = True), got return_dict=False"
            )
        self.model.eval()

    def start(self, student: Any) -> TeacherSession:
        """See `Teacher.start`."""
        check_vocabulary_sizes(student, self.model)
        return _ModelSession(self.model, vocabulary_size(student))

    @torch.no_grad()
    def score_trajectory(self, input_ids: torch.Tensor, first: int) -> torch.Tensor:
        """See `Teacher.score_trajectory`."""
        length = check_first(input_ids, first)
        check_positions(position_limit(self.model), length, "Teacher.score_trajectory")
        ids = input_ids[None].to(input_device(self.model))
        keep = dict.fromkeys(_taken(self.model, ("logits_to_keep",)), length - first + 1)
        outputs = self.model(input_ids=ids, use_cache=False, **keep)
        logits = logits_of(outputs, "Teacher.score_trajectory", "teacher")
        return logits[0, -(length - first + 1) : -1]

    @torch.no_grad()
    def label_trajectory(
        self,
        input_ids: torch.Tensor,
        first: int,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        *,
        vocabulary: int | None = None,
        chunk: int = CHUNK,
        top: int = 0,
    ) -> TrajectoryLabels:
        """See `Teacher.label_trajectory`."""
        length = check_first(input_ids, first)
        check_positions(position_limit(self.model), length - 1, "Teacher.label_trajectory")
        head, device = find_logits_head(self.model), input_device(self.model)
        pieces = trajectory_logits(self.model, head, input_ids[:-1], first, chunk=chunk)
        answers, best = [], []
        for logits, own_ids, own_logits in zip(
            pieces, student_ids.split(chunk), student_logits.split(chunk), strict=True
        ):
            known = logits[:, : _common_size(logits, vocabulary)]
            answers.append(_view(known, own_ids.to(device), own_logits.to(device)))
            if top:
                best.append(top_tokens(known, top))
        home = input_ids.device
        labels = SupportKL._make(torch.cat(c).to(home) for c in zip(*answers, strict=True))
        likeliest = None
        if top:
            likeliest = TopTokens._make(torch.cat(c).to(home) for c in zip(*best, strict=True))
        return TrajectoryLabels(*labels, likeliest)


class _ModelSession:
    """Lockstep with a lagging cache: the tokens since the last question go through in one
    forward. A model that returns no `Cache` reads the whole sequence each time."""

    def __init__(self, model: Any, vocabulary: int) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.forward_passes = 0
        self._cache_name = cache_name_of(model)
        self._cache: Any = None
        if self._cache_name not in STATE_NAMES:
            self._cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        self._seen = 0
        self._positions = position_limit(model)
        self._takes = _taken(model, ("position_ids", "logits_to_keep"))
        self._adapters = adapter_layers(model)
        self._output_head = None if is_compiled(model) else output_head(model)

    @torch.no_grad()
    def evaluate(
        self,
        context: CandidateContext,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        candidate_ids: torch.Tensor,
        rows: torch.Tensor,
    ) -> SupportKL:
        """See `TeacherSession.evaluate`."""
        logits = self._next_logits(context)
        known = logits[:, : _common_size(logits, self.vocabulary)]
        return _view(known, student_ids, student_logits, candidate_ids)

    def _next_logits(self, context: CandidateContext) -> torch.Tensor:
        ids = context.input_ids
        self._check_ids(ids[:, self._seen :])
        device = input_device(self.model)
        mask = context.attention_mask
        positions = _positions(ids, context.position_ids, mask)
        if self._positions is not None and ids.shape[1] > self._positions:
            check_positions(self._positions, int(positions.max()) + 1)  # padding takes none
        new = ids.shape[1] - self._seen
        # Of one row or one position there are no gaps, and a hook may cost a compiled forward.
        gappy_head = self._output_head if new > 1 and len(ids) > 1 else None
        cached = self._cache is not None
        options = {"position_ids": positions.to(device), "logits_to_keep": 1}
        inputs = self.model.prepare_inputs_for_generation(
            ids.to(device),
            next_sequence_length=new,
            is_first_iteration=self._seen == 0,  # some read the mask of the prompt only then
            **({self._cache_name: self._cache} if cached else {}),
            attention_mask=None if mask is None else mask[:, :-1].to(device),
            use_cache=cached,
            **{name: value for name, value in options.items() if name in self._takes},
        )
        # It may be the student itself, whose adapter only chooses.
        with unswitched(self._adapters), gapless_head_input(gappy_head):
            outputs = self.model(**inputs, return_dict=True)
        logits = logits_of(outputs, argument="teacher")[:, -1]
        states = cache_of(outputs) if cached else None
        self._cache = states if isinstance(states, Cache) else None
        self._seen = 0 if self._cache is None else ids.shape[1]
        self.forward_passes += 1
        return logits.to(ids.device)

    def _check_ids(self, ids: torch.Tensor) -> None:
        rows = vocabulary_size(self.model)
        # Only then can an id be out of range, and looking waits for the device.
        if rows < self.vocabulary and int(ids.max()) >= rows:
            raise ValueError(
                f"generate: teacher must have a row for every token of the sequence ({rows} rows), "
                f"got {int(ids.max())}"
            )


def _taken(model: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the arguments that the model's forward takes."""
    parameters = inspect.signature(model.forward).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return names
    return tuple(name for name in names if name in parameters)


def _common_size(logits: torch.Tensor, vocabulary: int | None) -> int:
    """How many ids both models have: rows one model pads its embedding with are no tokens."""
    return logits.shape[1] if vocabulary is None else min(vocabulary, logits.shape[1])


def _view(
    logits: torch.Tensor,
    student_ids: torch.Tensor,
    student_logits: torch.Tensor,
    candidate_ids: torch.Tensor | None = None,
) -> SupportKL:
    """`ops.support_kl` over the ids both models have; the candidates default to the support. An
    id the teacher has no row for counts as impossible.
    """
    size = logits.shape[1]
    known = student_ids.where(student_ids < size, -1)
    if candidate_ids is None:
        candidates = known
    else:
        candidates = candidate_ids.where(candidate_ids < size, -1)
    return ops.support_kl(known, student_logits, for_kernels(logits), candidates)


def _positions(
    input_ids: torch.Tensor, positions: torch.Tensor | None, mask: torch.Tensor | None
) -> torch.Tensor:
    """The student's positions without the candidate's; for students that take none, counted from
    the first real token."""
    if positions is not None:
        return positions[..., :-1]
    if mask is not None:
        return (mask[:, :-1].cumsum(dim=-1) - 1).clamp(min=0)
    count = torch.arange(input_ids.shape[1], device=input_ids.device)
    return count.expand(input_ids.shape[0], -1)
