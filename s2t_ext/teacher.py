"""Teachers: who knows better, asked for log-probabilities of given candidates at given states
(paper, section 3.1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from . import ops
from .ops import SupportKL

if TYPE_CHECKING:
    from .decoding.candidate_step import CandidateContext


class TeacherSession(Protocol):
    """One generation's view of a teacher: follows the emitted tokens and answers for the next
    one."""

    #: Teacher forward passes (or requests) so far.
    forward_passes: int

    def evaluate(
        self,
        context: CandidateContext,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        candidate_ids: torch.Tensor,
    ) -> SupportKL:
        """The teacher's opinion of the next token at `context`.

        Args:
            context: The tokens so far, with the student's mask and positions.
            student_ids: int64 [batch, S], the student's support, -1 where there is none.
            student_logits: fp32 [batch, S].
            candidate_ids: int64 [batch, K], -1 where there is none.

        Returns:
            `SupportKL`: KL(student || teacher) on the support, log-probabilities of the candidates,
            the teacher's own argmax.
        """
        ...


class Teacher(ABC):
    """A large model that guides a small one with the same vocabulary.

    Make one with `from_model` (a transformers model in this process).
    """

    #: The teacher's tokenizer, if known; compared with the student's.
    tokenizer: Any = None

    @staticmethod
    def from_model(model: nn.Module, tokenizer: Any = None) -> ModelTeacher:
        """A local causal language model, run in lockstep with its own cache.

        Args:
            model: The teacher, on any device; PEFT-wrapped or not.
            tokenizer: Its tokenizer, to be compared with the student's.
        """
        return ModelTeacher(model, tokenizer)

    @abstractmethod
    def start(self, student: Any) -> TeacherSession:
        """A session for one generation of the `student` model.

        Raises:
            ValueError: if the vocabularies differ.
        """

    @abstractmethod
    def score_trajectory(self, input_ids: torch.Tensor, first: int) -> torch.Tensor:
        """The teacher's logits for every token of a finished trajectory, in one prefill.

        Args:
            input_ids: int64 [length], prompt and response without padding.
            first: Index of the first token to be predicted, 1..length-1.

        Returns:
            [length - first, V]: row i holds the logits that predict token first + i.
        """


class ModelTeacher(Teacher):
    """See `Teacher.from_model`."""

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        from .decoding.adapters import unwrap_peft

        self.model = unwrap_peft(model).eval()
        self.tokenizer = tokenizer
        if self.model.config.is_encoder_decoder:
            raise ValueError(
                f"Teacher.from_model: model must be decoder-only, got {type(self.model).__name__}"
            )

    def start(self, student: Any) -> TeacherSession:
        """See `Teacher.start`."""
        check_vocabulary_sizes(student, self.model)
        return _ModelSession(self.model, _vocabulary_size(student))

    @torch.no_grad()
    def score_trajectory(self, input_ids: torch.Tensor, first: int) -> torch.Tensor:
        """See `Teacher.score_trajectory`."""
        length = input_ids.shape[0]
        if not 1 <= first < length:
            raise ValueError(f"score_trajectory: first must be in [1, {length - 1}], got {first}")
        ids = input_ids[None].to(self.model.device)
        logits: torch.Tensor = self.model(
            input_ids=ids, use_cache=False, logits_to_keep=length - first + 1
        ).logits
        return logits[0, -(length - first + 1) : -1]


class _ModelSession:
    """Lockstep with a lagging cache: the tokens since the last question go through in one
    forward."""

    def __init__(self, model: Any, vocabulary: int) -> None:
        from transformers.cache_utils import DynamicCache

        self.model = model
        self.vocabulary = vocabulary
        self.forward_passes = 0
        self._cache: Any = DynamicCache(config=model.config.get_text_config(decoder=True))
        self._seen = 0

    @torch.no_grad()
    def evaluate(
        self,
        context: CandidateContext,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        candidate_ids: torch.Tensor,
    ) -> SupportKL:
        """See `TeacherSession.evaluate`."""
        logits = self._next_logits(context)
        size = min(self.vocabulary, logits.shape[1])
        # Rows one model pads its embedding with are no tokens; an id the teacher has no row for
        # counts as impossible.
        return ops.support_kl(
            student_ids.where(student_ids < size, -1),
            student_logits,
            logits[:, :size],
            candidate_ids.where(candidate_ids < size, -1),
        )

    def _next_logits(self, context: CandidateContext) -> torch.Tensor:
        ids = context.input_ids
        device = self.model.device
        mask, positions = context.attention_mask, context.position_ids
        inputs = self.model.prepare_inputs_for_generation(
            ids.to(device),
            next_sequence_length=ids.shape[1] - self._seen,
            past_key_values=self._cache,
            attention_mask=None if mask is None else mask[:, :-1].to(device),
            position_ids=_positions(ids, positions).to(device),
            use_cache=True,
            logits_to_keep=1,
        )
        outputs = self.model(**inputs, return_dict=True)
        self._cache = outputs.past_key_values
        self._seen = ids.shape[1]
        self.forward_passes += 1
        logits: torch.Tensor = outputs.logits[:, -1]
        return logits.to(ids.device)


def check_vocabulary_sizes(student: Any, teacher: Any) -> None:
    """Raises ValueError if the embeddings differ by more than padding can explain (1,024 rows)."""
    sizes = _vocabulary_size(student), _vocabulary_size(teacher)
    if abs(sizes[0] - sizes[1]) > 1024:
        raise ValueError(
            f"generate: teacher must have the student's vocabulary ({sizes[0]} rows), got "
            f"{sizes[1]} rows"
        )


def check_same_tokenizer(student: Any, teacher: Any) -> None:
    """Raises ValueError if two tokenizers give different meanings to an id both know.

    Entries that only pad a vocabulary (added by one side only) do not matter.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    by_id = {index: text for text, index in theirs.items()}
    for text, index in ours.items():
        other = by_id.get(index)
        if other is not None and other != text:
            raise ValueError(
                f"generate: teacher must have the student's tokenizer, got {other!r} for id "
                f"{index} "
                f"where the student has {text!r}"
            )
    shared = len(set(ours.items()) & set(theirs.items()))
    if shared < 0.99 * min(len(ours), len(theirs)):
        raise ValueError(
            f"generate: teacher must have the student's tokenizer, got {shared} shared entries of "
            f"{len(ours)}"
        )


def _vocabulary_size(model: Any) -> int:
    from .decoding.adapters import unwrap_peft

    rows: int = unwrap_peft(model).get_output_embeddings().weight.shape[0]
    return rows


def _positions(input_ids: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
    """The student's positions without the candidate's; counted from 0 for students that take
    none."""
    if positions is None:
        count = torch.arange(input_ids.shape[1], device=input_ids.device)
        return count.expand(input_ids.shape[0], -1)
    return positions[..., :-1]
