"""From a rollout to a labelled trajectory: one prefill of the student and one of the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from s2t_ext import ops
from s2t_ext.distillation.groups import TOP_LOGPROBS, Group, Trajectory
from s2t_ext.distillation.packing import PackedModel
from s2t_ext.hf.identity import vocabulary_size
from s2t_ext.hf.trajectory import trajectory_support
from s2t_ext.selectors.parts import trigger_logprobs
from s2t_ext.teachers.base import Teacher, UnlabelledTrajectory
from s2t_ext.teachers.labels import TopTokens, TrajectoryLabels

#: Which steps of a rollout are kept.
STEPS = ("kl", "entropy", "either")


class Labelled(NamedTuple):
    """A labelled trajectory.

    Attributes:
        trajectory: With its groups, divergences and entropies.
        top: The teacher's likeliest tokens at its steps, if they were asked for and it has steps.
    """

    trajectory: Trajectory
    top: TopTokens | None


class Labeller:
    """Turns a rollout into a `Trajectory`: one forward pass of the student, one of the teacher."""

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher,
        *,
        k: int = 16,
        support: int = 64,
        share: float = 0.1,
        steps: str = "kl",
        entropy_threshold: float | None = None,
        blocked: Sequence[int] = (),
        teacher_topk: int = 0,
    ) -> None:
        self.teacher = teacher
        self.k = k
        self.support = support
        self.share = share
        self.steps = steps
        self.entropy_threshold = entropy_threshold
        self.teacher_topk = teacher_topk
        self._packed = PackedModel(model)
        self._device = self._packed.plain.device
        self._blocked = None
        if blocked:
            self._blocked = torch.tensor(list(blocked), dtype=torch.int64, device=self._device)

    @classmethod
    def of(cls, settings: Mapping[str, Any], model: nn.Module, teacher: Teacher) -> Labeller:
        """The labeller that the settings of a collection describe."""
        options = {name: settings[name] for name in ("k", "support", "share", "steps")}
        options["entropy_threshold"] = settings.get("entropy_threshold")
        options["teacher_topk"] = settings.get("teacher_topk", 0)
        return cls(model, teacher, blocked=settings["reserved_ids"], **options)

    def label(self, key: str, prompt: Sequence[int], response: Sequence[int]) -> Trajectory:
        """The labelled trajectory; its groups are the ceil(share * length) steps of highest KL, of
        highest entropy, or both (`collect`'s `steps`), or those above an entropy.
        """
        return self.label_all([key], [(prompt, response)])[0].trajectory

    @torch.no_grad()
    def label_all(
        self, keys: Sequence[str], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[Labelled]:
        """`label` of several (prompt ids, response ids); the teacher sees them together."""
        proposals, questions = [], []
        for prompt, response in pairs:
            if response:
                ids = torch.tensor([*prompt, *response], dtype=torch.int64, device=self._device)
                proposal = self._propose(ids[:-1], len(prompt))
                proposals.append(proposal)
                questions.append(
                    UnlabelledTrajectory(ids, len(prompt), proposal.ids, proposal.logits)
                )
        vocabulary = vocabulary_size(self._packed.plain)
        options = {"top": self.teacher_topk} if self.teacher_topk else {}
        answers = self.teacher.label_trajectories(questions, vocabulary=vocabulary, **options)
        found = iter(zip(proposals, answers, strict=True))
        result = []
        for key, (prompt, response) in zip(keys, pairs, strict=True):
            labels: tuple[Any, ...] = ((),)
            top = None
            if response:
                proposal, answer = next(found)
                labels = self._labels(proposal, answer)
                top = answer.top if self.teacher_topk else None
            result.append(Labelled(Trajectory(key, tuple(prompt), tuple(response), *labels), top))
        return result

    def _labels(
        self, proposal: ops.ProposedCandidates, answer: TrajectoryLabels
    ) -> tuple[Any, ...]:
        """(groups; divergence, entropy, best log-probabilities of every step) of a trajectory."""
        kl = answer.kl
        chosen = self._chosen(kl, proposal.support_entropy)
        logprobs = proposal.logprobs[:, : self.k].tolist()
        probs = answer.candidate_logprobs[:, : self.k].exp().tolist()
        entropy = _rounded(proposal.support_entropy.tolist())
        kl_list = _rounded(kl.nan_to_num(posinf=1e4).tolist())
        groups = []
        for step in chosen:
            there = [j for j in range(self.k) if int(proposal.ids[step, j]) >= 0]
            groups.append(
                Group(
                    step,
                    tuple(int(proposal.ids[step, j]) for j in there),
                    _rounded(logprobs[step][j] for j in there),
                    _rounded(probs[step][j] for j in there),
                    kl_list[step],
                    entropy[step],
                )
            )
        top = []
        if self.support >= TOP_LOGPROBS:
            top = trigger_logprobs(proposal.logprobs, TOP_LOGPROBS).tolist()
        return tuple(groups), kl_list, entropy, tuple(_rounded(step, 4) for step in top)

    def _chosen(self, kl: torch.Tensor, entropy: torch.Tensor) -> list[int]:
        """The steps to keep, ascending, of [length] each."""
        count = math.ceil(self.share * kl.shape[0])
        chosen: set[int] = set()
        if self.steps != "entropy":
            chosen |= set(torch.where(kl.isfinite(), kl, -1.0).topk(count).indices.tolist())
        if self.steps != "kl" and self.entropy_threshold is not None:
            # The trigger compares what decoding finds, before it is rounded for the disk.
            chosen |= set((entropy > self.entropy_threshold).nonzero().flatten().tolist())
        elif self.steps != "kl":
            chosen |= set(entropy.topk(count).indices.tolist())
        return sorted(chosen)

    def _propose(self, ids: torch.Tensor, first: int) -> ops.ProposedCandidates:
        packed = self._packed
        return trajectory_support(
            packed.plain, packed.head, ids, first, self.support, blocked=self._blocked
        )


def _rounded(values: Any, digits: int = 6) -> tuple[float, ...]:
    """Six significant digits: below the noise of any dtype a model runs in, and half the disk."""
    return tuple(float(f"{value:.{digits}g}") for value in values)
