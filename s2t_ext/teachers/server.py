"""A teacher behind an OpenAI-compatible completions server (vLLM, llama.cpp, ...).

What such a server can say of a state differs: see `server_questions`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from s2t_ext import ops
from s2t_ext.hf.identity import vocabulary_size
from s2t_ext.ops import SupportKL
from s2t_ext.runs.checks import require
from s2t_ext.runs.numbers import integer
from s2t_ext.teachers.answer_cache import FROM_SERVER
from s2t_ext.teachers.base import Teacher, check_first
from s2t_ext.teachers.completions_client import CompletionsClient
from s2t_ext.teachers.labels import TopTokens, TrajectoryLabels, listed_tokens
from s2t_ext.teachers.server_answers import Position
from s2t_ext.teachers.server_questions import MODES, Questions

if TYPE_CHECKING:
    from s2t_ext.hf.context import CandidateContext

PROMPTS = ("ids", "text")


class ServerTeacher(Teacher, kind="server"):
    """See `Teacher.from_server`.

    Args:
        url: Address of the server.
        model_name: As the server knows it.
        tokenizer: Its tokenizer.
        mode: "ids": a request names the ids whose log-probabilities it wants, the candidates and
            the student's support (vLLM's `logprob_token_ids`), so that nothing is missing. "exact":
            candidates the list of likeliest tokens lacks are asked for one by one, by echo. "top":
            they get the floor. "auto": the first of these that the server proves able to.
        top_logprobs: Length of the list of likeliest tokens; servers cap it (vLLM: 20).
        floor: Log-probability of an unlisted token, in nats. None takes the largest value it can
            have: that of the last listed token, or of all the mass that is left if that is less. So
            a listed candidate always beats an unlisted one, unlisted ones tie (the student's order
            decides), and the divergence is underestimated a little.
        prompt: "ids" sends token ids; "text" the decoded text, for servers that take no ids.
        timeout: See `CompletionsClient`.
        retries: See `CompletionsClient`.
        backoff: See `CompletionsClient`.
        concurrency: See `CompletionsClient`.
        cache_dir: See `CompletionsClient`.
        api_key: See `CompletionsClient`.
        extra_body: Further fields of every request; None asks vLLM to name tokens by their ids.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        url: str,
        model_name: str,
        tokenizer: Any = None,
        *,
        mode: str = "auto",
        top_logprobs: int = 20,
        floor: float | None = None,
        prompt: str = "ids",
        timeout: float = 60.0,
        retries: int = 4,
        backoff: float = 0.5,
        concurrency: int = 8,
        cache_dir: str | Path | None = None,
        api_key: str | None = None,
        extra_body: dict[str, Any] | None = None,
    ) -> None:
        require(mode in MODES, FROM_SERVER, "mode", f"be one of {', '.join(MODES)}", mode)
        require(
            prompt in PROMPTS,
            FROM_SERVER,
            "prompt",
            f"be one of {', '.join(PROMPTS)}",
            prompt,
        )
        top_logprobs = integer(FROM_SERVER, "top_logprobs", top_logprobs)
        require(top_logprobs >= 1, FROM_SERVER, "top_logprobs", "be at least 1", top_logprobs)
        require(floor is None or floor <= 0, FROM_SERVER, "floor", "be at most 0 nats", floor)
        if prompt == "text":
            require(
                tokenizer is not None, FROM_SERVER, "tokenizer", "be given for prompt='text'", None
            )
            rule = "not be 'exact' for prompt='text'"  # it may be cut into other tokens
            require(mode != "exact", FROM_SERVER, "mode", rule, mode)
        if extra_body is None:
            extra_body = {"return_tokens_as_token_ids": True}
        self.client = CompletionsClient(
            url,
            model_name,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            concurrency=concurrency,
            cache_dir=cache_dir,
            api_key=api_key,
            extra_body=extra_body,
        )
        self.model_name = model_name
        self.tokenizer = tokenizer
        self.top_logprobs = top_logprobs
        self.questions = Questions(
            self.client,
            tokenizer,
            mode=mode,
            top_logprobs=top_logprobs,
            floor=floor,
            as_text=prompt == "text",
        )

    @property
    def mode(self) -> str:
        """What the server is asked: "auto" until its first answer, then what that has shown."""
        return self.questions.mode

    def start(self, student: Any) -> _ServerSession:
        """See `Teacher.start`."""
        if self.tokenizer is not None:
            rows = vocabulary_size(student)
            entries = max(self.tokenizer.get_vocab().values()) + 1
            require(
                entries <= rows + 1024,
                FROM_SERVER,
                "tokenizer",
                f"have the student's vocabulary ({rows} rows)",
                f"{entries} entries",
            )
        return _ServerSession(self, vocabulary_size(student))

    def candidate_logprobs(self, prefix: list[int], candidates: list[int]) -> list[float]:
        """Log-probabilities of candidates for the next token, in nats.

        Args:
            prefix: Ids of all tokens before it.
            candidates: Ids; -1 is none and gets -inf.

        Raises:
            TeacherServerError: when all attempts have failed.
        """
        mode = self.questions.known_mode(prefix)
        named = [candidates] if mode == "ids" else None
        (position,) = self.questions.next_tokens([prefix], named)
        if mode == "exact":
            self.questions.fill_in(prefix, position, candidates)
        return [position[candidate] for candidate in candidates]

    def score_trajectory(self, input_ids: torch.Tensor, first: int) -> torch.Tensor:
        """A server has no vocabulary-wide logits: raises NotImplementedError."""
        raise NotImplementedError(
            "score_trajectory: teacher must be a local model (a server lists only some tokens; "
            "use label_trajectory), got a server"
        )

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
        """See `Teacher.label_trajectory`: a request a step that names the support; or, where the
        server cannot answer that, one echo of the whole trajectory, or one request a step where
        there is no echo either. Then tokens a step's list lacks get the floor. `top`, at most the
        list's length, always asks for the lists.
        """
        check_first(input_ids, first)
        most = self.top_logprobs
        require(top <= most, "label_trajectory", "top", f"be at most top_logprobs = {most}", top)
        ids: list[int] = input_ids.tolist()
        limit = math.inf if vocabulary is None else vocabulary
        known = student_ids.where(student_ids < limit, -1)
        by_ids = self.questions.known_mode(ids[:first]) == "ids"
        lists = [] if by_ids and not top else self.questions.trajectory(ids, first)
        positions = lists
        if by_ids:
            prefixes = [ids[:end] for end in range(first, len(ids))]
            positions = self.questions.next_tokens(prefixes, known.tolist())
        labels = view(positions, known, student_logits, known, limit)
        best = None
        if top:
            listed = [position.listed(limit) for position in lists]
            best = TopTokens._make(p.to(input_ids.device) for p in listed_tokens(listed, top))
        return TrajectoryLabels(*labels, best)


class _ServerSession:
    """One generation: a request per row that needs an answer, all at once.

    Args:
        teacher: Who is asked.
        vocabulary: Rows of the student's embedding.
    """

    def __init__(self, teacher: ServerTeacher, vocabulary: int) -> None:
        self.teacher = teacher
        self.vocabulary = vocabulary
        self._before = teacher.client.requests

    @property
    def forward_passes(self) -> int:
        """Requests the server has answered for this session."""
        return self.teacher.client.requests - self._before

    def evaluate(
        self,
        context: CandidateContext,
        student_ids: torch.Tensor,
        student_logits: torch.Tensor,
        candidate_ids: torch.Tensor,
        rows: torch.Tensor,
    ) -> SupportKL:
        """See `TeacherSession.evaluate`; rows not asked for get 0, -inf and -1."""
        ids, mask = context.input_ids, context.attention_mask
        needed = rows.nonzero().flatten().tolist()
        prefixes = []
        for row in needed:
            real = ids[row] if mask is None else ids[row][mask[row, :-1].bool()]
            prefixes.append(real.tolist())
        positions: list[Position | None] = [None] * ids.shape[0]
        questions = self.teacher.questions
        mode = questions.known_mode(prefixes[0]) if needed else "top"
        candidates = candidate_ids[needed].tolist()
        named = None
        if mode == "ids":
            named = [s + c for s, c in zip(student_ids[needed].tolist(), candidates, strict=True)]
        answers = questions.next_tokens(prefixes, named)
        for row, prefix, position, some in zip(needed, prefixes, answers, candidates, strict=True):
            if mode == "exact":
                questions.fill_in(prefix, position, some)
            positions[row] = position
        return view(positions, student_ids, student_logits, candidate_ids, self.vocabulary)


def view(
    positions: list[Position | None] | list[Position],
    student_ids: torch.Tensor,
    student_logits: torch.Tensor,
    candidate_ids: torch.Tensor,
    vocabulary: float = math.inf,
) -> SupportKL:
    """`SupportKL` of listed log-probabilities; None stands for a row that was not asked for. The
    teacher's own token is one of the student's `vocabulary`.
    """
    device = student_ids.device
    support = torch.full(student_ids.shape, -math.inf, dtype=torch.float32)
    candidates = torch.full(candidate_ids.shape, -math.inf, dtype=torch.float32)
    argmax = torch.full((len(positions),), -1)
    for row, position in enumerate(positions):
        if position is None:
            continue
        support[row] = torch.tensor(
            [position[i] for i in student_ids[row].tolist()], dtype=torch.float32
        )
        candidates[row] = torch.tensor(
            [position[i] for i in candidate_ids[row].tolist()], dtype=torch.float32
        )
        argmax[row] = position.best(vocabulary)
    # The divergence looks at the support only, so the support can stand for the vocabulary.
    places = torch.arange(student_ids.shape[1], device=device).expand_as(student_ids)
    places = places.where(student_ids >= 0, -1).contiguous()
    kl = ops.support_kl(places, student_logits, support.to(device), places).kl
    asked = torch.tensor([position is not None for position in positions], device=device)
    return SupportKL(kl.where(asked, 0.0), candidates.to(device), argmax.to(device))
