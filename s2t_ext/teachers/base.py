"""Teachers: who knows better, asked for log-probabilities of given candidates at given states
(paper, section 3.1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import nn

from s2t_ext.hf.identity import describe_model
from s2t_ext.ops import SupportKL
from s2t_ext.teachers.labels import TrajectoryLabels

if TYPE_CHECKING:
    from s2t_ext.hf.context import CandidateContext


class TeacherSession(Protocol):
    """One generation's view of a teacher: follows the emitted tokens and answers for the next
    one."""

    @property
    def forward_passes(self) -> int:
        """Teacher forward passes (or requests) so far."""
        ...

    def evaluate(
        self,
        context: CandidateContext,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        candidate_ids: torch.Tensor,
        rows: torch.Tensor,
    ) -> SupportKL:
        """The teacher's opinion of the next token at `context`.

        Args:
            context: The tokens so far, with the student's mask and positions.
            student_ids: int64 [batch, S], the student's support, -1 where there is none.
            student_logits: fp32 [batch, S].
            candidate_ids: int64 [batch, K], -1 where there is none.
            rows: Bool [batch], those whose answer will be read; a teacher that pays per row may
                leave the others out.

        Returns:
            `SupportKL`: KL(student || teacher) on the support, log-probabilities of the candidates,
            the teacher's own argmax.
        """
        ...


@dataclass(frozen=True)
class UnlabelledTrajectory:
    """A finished trajectory and what the student proposed at each of its steps.

    Attributes:
        input_ids: int64 [length], prompt and response without padding.
        first: Index of the first token of the response, 1..length-1.
        student_ids: int64 [length - first, S], the student's support at each step, or -1.
        student_logits: fp32 [length - first, S].
    """

    input_ids: torch.Tensor
    first: int
    student_ids: torch.Tensor
    student_logits: torch.Tensor


class Teacher(ABC):
    """A large model that guides a small one with the same vocabulary.

    Make one with `from_model` (a transformers model in this process), `from_server` (any
    OpenAI-compatible completions server) or `from_vllm` (an engine in this process, to label
    trajectories).
    """

    #: The teacher's tokenizer, if known; compared with the student's.
    tokenizer: Any = None

    #: Filled by the subclasses that `s2t_ext.teachers` imports.
    _kinds: ClassVar[dict[str, Callable[..., Teacher]]] = {}

    def __init_subclass__(cls, *, kind: str | None = None) -> None:
        super().__init_subclass__()
        if kind is not None:
            Teacher._kinds[kind] = cls

    @staticmethod
    def from_model(model: nn.Module, tokenizer: Any = None) -> Teacher:
        """A local causal language model, run in lockstep with its own cache.

        Args:
            model: The teacher, on any device; PEFT-wrapped or not. Given the student with its
                adapter and `S2TConfig(select="teacher", proposer="base")`, the base model writes
                and the adapted one chooses; their weights are in memory once.
            tokenizer: Its tokenizer, to be compared with the student's.
        """
        return Teacher._kinds["model"](model, tokenizer)

    @staticmethod
    def from_server(url: str, model_name: str, tokenizer: Any = None, **options: Any) -> Teacher:
        """A model behind an OpenAI-compatible completions server (vLLM, llama.cpp, ...).

        Args:
            url: Of the server, e.g. "http://localhost:8000/v1".
            model_name: As the server knows it.
            tokenizer: Its tokenizer, to be compared with the student's; needed where the server
                takes text instead of ids or names tokens by their text.
            options: See `s2t_ext.teachers.server.ServerTeacher`.
        """
        return Teacher._kinds["server"](url, model_name, tokenizer, **options)

    @staticmethod
    def from_vllm(llm: Any, tokenizer: Any = None) -> Teacher:
        """A vLLM engine in this process, for `collect` and `measure_sufficiency`.

        Args:
            llm: A `vllm.LLM` on the V2 model runner (vLLM's choice on GPUs, or
                `VLLM_USE_V2_MODEL_RUNNER=1`), with `max_logprobs` at least the support (64).
            tokenizer: Its tokenizer, to be compared with the student's.
        """
        return Teacher._kinds["engine"](llm, tokenizer)

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

        Raises:
            NotImplementedError: if the teacher has no vocabulary-wide logits (a server).
        """

    @abstractmethod
    def label_trajectory(
        self,
        input_ids: torch.Tensor,
        first: int,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        *,
        vocabulary: int | None = None,
        chunk: int = 128,
        top: int = 0,
    ) -> TrajectoryLabels:
        """The teacher's opinion of the student's support at every step of a finished trajectory.

        Equal to asking step by step, in one prefill, without ever holding [length, V].

        Args:
            input_ids: As in `score_trajectory`.
            first: As in `score_trajectory`.
            student_ids: int64 [length - first, S], the student's support at each step, or -1.
            student_logits: fp32 [length - first, S].
            vocabulary: Rows of the student's embedding; None takes all of the teacher's.
            chunk: Steps whose vocabulary-wide logits are held at a time.
            top: How many of the teacher's own likeliest tokens to return, 0 for none.

        Returns:
            One row per step; the candidates are the support, so `candidate_logprobs` is
            [length - first, S].
        """

    def label_trajectories(
        self,
        trajectories: Sequence[UnlabelledTrajectory],
        *,
        vocabulary: int | None = None,
        chunk: int = 128,
        top: int = 0,
    ) -> list[TrajectoryLabels]:
        """`label_trajectory` of several, which some teachers do at once.

        Args:
            trajectories: The trajectories.
            vocabulary: As in `label_trajectory`.
            chunk: As in `label_trajectory`.
            top: As in `label_trajectory`.

        Returns:
            One `TrajectoryLabels` per trajectory.
        """
        # A teacher of one's own that knows no `top` labels without it.
        options = {"top": top} if top else {}
        return [
            self.label_trajectory(
                one.input_ids,
                one.first,
                one.student_ids,
                one.student_logits,
                vocabulary=vocabulary,
                chunk=chunk,
                **options,
            )
            for one in trajectories
        ]


def check_first(input_ids: torch.Tensor, first: int) -> int:
    """The trajectory's length; raises ValueError if there is no token before or at `first`."""
    length = input_ids.shape[0]
    if not 1 <= first < length:
        raise ValueError(f"score_trajectory: first must be in [1, {length - 1}], got {first}")
    return length


def describe_teacher(teacher: Teacher) -> dict[str, Any]:
    """What a run's settings say of its teacher."""
    model = getattr(teacher, "model", None)
    if isinstance(model, nn.Module):
        return describe_model(model)
    return {"name": str(getattr(teacher, "model_name", type(teacher).__name__))}


def check_another_model(function: str, student: nn.Module, teacher: Teacher) -> None:
    """Raises ValueError if the teacher is the student: they agree everywhere, and nothing is learnt
    from that.

    Args:
        function: Named in the message.
        student: The student.
        teacher: Only one that runs in this process can be compared.
    """
    ours, theirs = describe_model(student), describe_teacher(teacher)
    if ours["fingerprint"] is not None and ours == {**theirs, "name": ours["name"]}:
        raise ValueError(
            f"{function}: teacher must be another model than the student, got the same weights "
            f"({ours['name'] or ours['model_type']})"
        )
