"""A teacher inside a vLLM engine of this process: labels many trajectories at a time, in one
prefill each. It takes the engine as it is given, and imports nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from s2t_ext import ops
from s2t_ext.teachers.base import Teacher, UnlabelledTrajectory, check_first
from s2t_ext.teachers.labels import TopTokens, TrajectoryLabels, listed_tokens


class EngineTeacher(Teacher, kind="engine"):
    """See `Teacher.from_vllm`.

    Args:
        llm: A `vllm.LLM`.
        tokenizer: Its tokenizer.
    """

    def __init__(self, llm: Any, tokenizer: Any = None) -> None:
        self.llm = llm
        self.tokenizer = tokenizer
        self.model_name = str(llm.model_config.model)
        self._sampling_params = type(llm.get_default_sampling_params())

    def start(self, student: Any) -> Any:
        """Raises NotImplementedError: a generation asks a model or a server."""
        raise NotImplementedError(
            "generate: teacher must be a model or a server (an engine labels finished "
            "trajectories), got an engine"
        )

    def score_trajectory(self, input_ids: torch.Tensor, first: int) -> torch.Tensor:
        """Raises NotImplementedError: an engine gives log-probabilities of given tokens."""
        raise NotImplementedError(
            "score_trajectory: teacher must be a local model (use label_trajectory), got an engine"
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
        """See `Teacher.label_trajectory`; the engine has chunks of its own."""
        one = UnlabelledTrajectory(input_ids, first, student_ids, student_logits)
        return self.label_trajectories([one], vocabulary=vocabulary, top=top)[0]

    def label_trajectories(
        self,
        trajectories: Sequence[UnlabelledTrajectory],
        *,
        vocabulary: int | None = None,
        chunk: int = 128,
        top: int = 0,
    ) -> list[TrajectoryLabels]:
        """See `Teacher.label_trajectories`: all are handed to the engine at once."""
        limit = math.inf if vocabulary is None else vocabulary
        known = [t.student_ids.where(t.student_ids < limit, -1) for t in trajectories]
        prompts, parameters = [], []
        for trajectory, ids in zip(trajectories, known, strict=True):
            check_first(trajectory.input_ids, trajectory.first)
            prompts.append({"prompt_token_ids": trajectory.input_ids.tolist()})
            parameters.append(
                self._sampling_params(
                    temperature=0.0,
                    max_tokens=1,
                    detokenize=False,
                    prompt_logprobs=max(top, 1),
                    prompt_logprob_token_ids=ids.tolist(),
                    prompt_logprob_start=trajectory.first - 1,
                    extra_args={"s2t": "off"},
                )
            )
        outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        return [
            _answer(output, trajectory, ids, top, limit)
            for output, trajectory, ids in zip(outputs, trajectories, known, strict=True)
        ]


def _answer(
    output: Any, trajectory: UnlabelledTrajectory, ids: torch.Tensor, top: int, limit: float
) -> TrajectoryLabels:
    """The labels in one of vLLM's outputs; `top` tokens below `limit` are wanted."""
    device = ids.device
    logprobs = torch.as_tensor(output.prompt_token_id_logprobs).float().to(device)
    # The divergence looks at the support only, so the support can stand for the vocabulary.
    places = torch.arange(ids.shape[1], device=device).expand_as(ids)
    places = places.where(ids >= 0, -1).contiguous()
    kl = ops.support_kl(places, trajectory.student_logits, logprobs.contiguous(), places).kl
    positions = output.prompt_logprobs[trajectory.first :]
    argmax = [next(t for t, entry in position.items() if entry.rank == 1) for position in positions]
    best = None
    if top:
        listed = [{t: e.logprob for t, e in p.items() if t < limit} for p in positions]
        best = TopTokens._make(part.to(device) for part in listed_tokens(listed, top))
    return TrajectoryLabels(kl, logprobs, torch.tensor(argmax, device=device), best)
