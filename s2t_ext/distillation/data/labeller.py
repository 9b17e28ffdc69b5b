"""From a rollout to a labelled trajectory: one prefill of the student and one of the teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from s2t_ext import ops
from s2t_ext.distillation.groups import Group, Trajectory
from s2t_ext.distillation.packing import PackedModel
from s2t_ext.hf.identity import vocabulary_size
from s2t_ext.hf.trajectory import trajectory_support
from s2t_ext.ops import SupportKL
from s2t_ext.teachers.base import Teacher, UnlabelledTrajectory

#: Which steps of a rollout are kept.
STEPS = ("kl", "entropy", "either")


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
    ) -> None:
        self.teacher = teacher
        self.k = k
        self.support = support
        self.share = share
        self.steps = steps
        self.entropy_threshold = entropy_threshold
        self._packed = PackedModel(model)
        self._device = self._packed.plain.device
        self._blocked = None
        if blocked:
            self._blocked = torch.tensor(list(blocked), dtype=torch.int64, device=self._device)

    def label(self, key: str, prompt: Sequence[int], response: Sequence[int]) -> Trajectory:
        """The labelled trajectory; its groups are the ceil(share * length) steps of highest KL, of
        highest entropy, or both (`collect`'s `steps`), or those above an entropy.
        """
        return self.label_all([key], [(prompt, response)])[0]

    @torch.no_grad()
    def label_all(
        self, keys: Sequence[str], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[Trajectory]:
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
        answers = iter(self.teacher.label_trajectories(questions, vocabulary=vocabulary))
        proposed = iter(proposals)
        trajectories = []
        for key, (prompt, response) in zip(keys, pairs, strict=True):
            labels: tuple[Any, ...] = ((),)
            if response:
                labels = self._labels(next(proposed), next(answers))
            trajectories.append(Trajectory(key, tuple(prompt), tuple(response), *labels))
        return trajectories

    def _labels(
        self, proposal: ops.ProposedCandidates, answer: SupportKL
    ) -> tuple[tuple[Group, ...], tuple[float, ...], tuple[float, ...]]:
        """(groups, divergence of every step, entropy of every step) of a trajectory."""
        kl = answer.kl
        chosen = self._chosen(kl, proposal.support_entropy)
        logprobs = (proposal.logits - proposal.logsumexp[:, None])[:, : self.k].tolist()
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
        return tuple(groups), kl_list, entropy

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


def _rounded(values: Any) -> tuple[float, ...]:
    """Six significant digits: below the noise of any dtype a model runs in, and half the disk."""
    return tuple(float(f"{value:.6g}") for value in values)
