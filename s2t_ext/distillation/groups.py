"""What a selector learns from: trajectories of the student with teacher-labelled steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s2t_ext.runs.checks import require

#: How many of the student's best log-probabilities are kept of every step.
TOP_LOGPROBS = 4


@dataclass(frozen=True)
class Group:
    """The candidates of one step, labelled by the teacher.

    Attributes:
        step: Number of response tokens before it; its prefix is prompt + response[:step].
        candidates: The student's top K ids, best first; all different.
        student_logprobs: Their log-probabilities under the student (over the whole vocabulary).
        teacher_probs: Their absolute probabilities under the teacher; they need not sum to 1.
        kl: KL(student || teacher) on the student's support, nats.
        entropy: The student's, nats.
    """

    step: int
    candidates: tuple[int, ...]
    student_logprobs: tuple[float, ...]
    teacher_probs: tuple[float, ...]
    kl: float = math.nan
    entropy: float = math.nan

    def __post_init__(self) -> None:
        count = len(self.candidates)
        require(count >= 1, "Group", "candidates", "hold at least one id", count)
        require(
            len(set(self.candidates)) == count, "Group", "candidates", "differ", self.candidates
        )
        for name in ("student_logprobs", "teacher_probs"):
            length = len(getattr(self, name))
            require(
                length == count, "Group", name, f"have one entry per candidate ({count})", length
            )
        require(self.step >= 0, "Group", "step", "be at least 0", self.step)

    @property
    def best(self) -> int:
        """Slot of the candidate the teacher likes best; the first of equals."""
        return max(range(len(self.candidates)), key=lambda i: (self.teacher_probs[i], -i))


@dataclass(frozen=True)
class Trajectory:
    """One rollout of the student and its labelled steps.

    Attributes:
        key: Identifies it within its collection.
        prompt: Token ids.
        response: Token ids.
        groups: Labelled steps, ascending.
        kl: Of every response step, for the trigger head; empty if unknown.
        entropy: The same.
        top_logprobs: The student's `TOP_LOGPROBS` best log-probabilities at every response step,
            best first, nats, for the trigger head; empty if unknown.
    """

    key: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    groups: tuple[Group, ...]
    kl: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()
    top_logprobs: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        steps = [group.step for group in self.groups]
        require(len(self.prompt) >= 1, "Trajectory", "prompt", "hold at least one token", 0)
        require(steps == sorted(set(steps)), "Trajectory", "groups", "be ascending by step", steps)
        require(
            not steps or steps[-1] <= len(self.response),
            "Trajectory",
            "groups",
            f"lie within the response of {len(self.response)} tokens",
            steps[-1:],
        )
        for name in ("kl", "entropy", "top_logprobs"):
            length = len(getattr(self, name))
            require(
                length in (0, len(self.response)),
                "Trajectory",
                name,
                "have one entry per token",
                length,
            )

    @property
    def prefix_length(self) -> int:
        """Tokens that some group, or the trigger head, looks at."""
        last = self.groups[-1].step if self.groups else 0
        return len(self.prompt) + max(last, self.num_steps - 1, 0)

    @property
    def num_steps(self) -> int:
        """Response steps that terms over tokens look at: those of known divergence, or, of an
        answer without any labels, all of them.
        """
        return len(self.kl) or (0 if self.groups else len(self.response))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Trajectory:
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {
            name: tuple(record[name])
            for name in ("prompt", "response", "kl", "entropy")
            if name in record
        }
        fields["top_logprobs"] = tuple(tuple(step) for step in record.get("top_logprobs", ()))
        groups = []
        for stored in record["groups"]:
            group: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()
            }
            groups.append(Group(**group))
        return cls(key=str(record["key"]), groups=tuple(groups), **fields)


def has_top_logprobs(trajectories: Sequence[Trajectory]) -> bool:
    """Whether all with known divergences have the student's best log-probabilities."""
    known = [t for t in trajectories if t.kl]
    return bool(known) and all(t.top_logprobs for t in known)


def batches_by_length(
    trajectories: Sequence[Trajectory], batch_size: int, order: Sequence[int]
) -> list[list[Trajectory]]:
    """Batches of similar length: `order` is cut into windows of 16 batches, each sorted by size.

    The order of the batches follows `order`, so a seeded order gives seeded batches.
    """
    batches = []
    window = 16 * batch_size
    for begin in range(0, len(order), window):
        part = sorted(order[begin : begin + window], key=lambda i: packed_length(trajectories[i]))
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    batches.sort(key=lambda batch: min(order.index(i) for i in batch))
    return [[trajectories[i] for i in batch] for batch in batches]


def packed_length(trajectory: Trajectory) -> int:
    """Tokens of the packed forward of one trajectory."""
    return trajectory.prefix_length + sum(len(g.candidates) for g in trajectory.groups)
