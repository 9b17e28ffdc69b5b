"""The demo's comparison: greedy, majority of eight, S2T and S2T-LOCAL on the same held-out
problems.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import StepEvent
from s2t_ext.demo.models import MAX_NEW_TOKENS, Demo
from s2t_ext.demo.problems import Problem, answer_of, problems
from s2t_ext.evaluation.policies import Policy, make_policy
from s2t_ext.evaluation.policy_runner import PolicyRunner
from s2t_ext.runs.statistics import wilson

METHODS = ("greedy", "maj@8", "s2t", "s2t-local")


@dataclass
class Outcome:
    """One method on all problems.

    Attributes:
        responses: Text of each response (maj@8: of the first sample with the majority's answer).
        right: Whether each answer is right.
        forward_passes: Calls of the student.
        tokens: Token positions through the student.
        teacher_passes: Calls of the teacher.
        seconds: Wall-clock time.
        triggers: Steps that needed a choice.
        changed: Steps whose token the choice changed.
        steps: All steps.
        events: Per step, of runs that choose.
    """

    method: str
    responses: list[str]
    right: list[bool]
    forward_passes: int
    tokens: int
    seconds: float
    teacher_passes: int = 0
    triggers: int = 0
    changed: int = 0
    steps: int = 0
    events: list[StepEvent] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the responses and events, as plain JSON values."""
        names = ("forward_passes", "tokens", "teacher_passes", "triggers", "changed", "steps")
        return {
            "method": self.method,
            "problems": len(self.right),
            "right": sum(self.right),
            "interval": self.interval,
            **{name: getattr(self, name) for name in names},
            "seconds": round(self.seconds, 3),
        }

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.right) / len(self.right)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        estimate = wilson(sum(self.right), len(self.right))
        return estimate.low, estimate.high


def held_out_problems(count: int) -> list[Problem]:
    """The problems of the demo; nothing was trained or tuned on their split."""
    return list(itertools.islice(problems("held_out", 0), count))


def run_method(method: str, demo: Demo, some: list[Problem]) -> Outcome:
    """One of METHODS on some problems, in one batch."""
    policy = _policy(method, demo)
    model = demo.adapted if policy.needs_selector else demo.student
    runner = PolicyRunner(
        model,
        demo.tokenizer,
        demo.teacher,
        demo.selector,
        max_new_tokens=MAX_NEW_TOKENS,
        use_chat_template=False,
    )
    events: list[StepEvent] = []
    prompts, numbers = [p.prompt for p in some], range(len(some))
    answers = runner.run(policy, prompts, numbers, None if policy.paths > 1 else events.append)
    responses = [_elected(answer.texts) for answer in answers]
    right = [answer_of(r) == p.answer for r, p in zip(responses, some, strict=True)]

    def total(name: str) -> int:
        return round(sum(float(getattr(answer, name)) for answer in answers))

    return Outcome(
        method,
        responses,
        right,
        forward_passes=total("forward_passes"),
        tokens=total("tokens_through_model"),
        seconds=sum(answer.seconds for answer in answers),
        teacher_passes=total("teacher_forward_passes"),
        triggers=total("triggers"),
        changed=total("changed"),
        steps=total("steps"),
        events=events,
    )


def _policy(method: str, demo: Demo) -> Policy:
    """The policy of that name: S2T-LOCAL as the selector says, S2T where its trigger fires."""
    if method == "maj@8":
        return make_policy(method, temperature=0.7, top_p=1.0)
    policy = make_policy(method, selector=demo.selector)
    own = demo.selector.decoding or S2TConfig()
    if method == "s2t-local":
        return replace(policy, config=own)
    if method == "s2t":
        threshold = demo.selector.calibrations["entropy"].threshold
        config = replace(policy.config, trigger="entropy", threshold=threshold)
        return replace(policy, config=replace(config, warmup_steps=own.warmup_steps))
    return policy


def _elected(texts: list[str]) -> str:
    """The first text with the answer that most of them give."""
    found = [answer_of(text) for text in texts]
    votes = Counter(answer for answer in found if answer is not None)
    return texts[found.index(votes.most_common(1)[0][0])] if votes else texts[0]
