"""One batch of a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from s2t_ext.decoding.record import StepEvent
from s2t_ext.evaluation.policies import Policy
from s2t_ext.hf.adapters import has_adapter
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.rollouts import Rollouts, roll_out
from s2t_ext.runs.seeds import row_seed
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher


@dataclass
class Answer:
    """What a policy wrote for one problem, and its share of what the batch cost.

    Attributes:
        texts: One per path.
        tokens: Written, over all paths.
        truncated: Paths that reached the length limit.
        steps: Decoding steps.
        triggers: Steps that needed a choice.
        changed: Choices that changed the token.
        ended_by_choice: Paths that a choice ended where they would have gone on.
        forward_passes: Of the student; 0 in a vLLM engine, which does not tell.
        tokens_through_model: Of the student.
        teacher_forward_passes: Of the teacher; calls of a batch are shared by its rows.
        seconds: Wall-clock time.
        teacher_steps: Steps of this problem at which the teacher was asked: its passes if the
            problem were decoded alone.
    """

    texts: list[str]
    tokens: int
    truncated: int
    steps: int
    triggers: int
    changed: int
    forward_passes: float
    tokens_through_model: float
    teacher_forward_passes: float
    seconds: float
    teacher_steps: int = 0
    ended_by_choice: int = 0


class PolicyRunner:
    """Runs policies on batches of prompts.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        teacher: For the policies that need one.
        selector: For the policies that need one.
        max_new_tokens: Length of an answer.
        seed: Of sampling.

    Raises:
        ValueError: if a policy needs what is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        teacher: Teacher | None = None,
        selector: Selector | None = None,
        *,
        max_new_tokens: int = 512,
        seed: int = 0,
        use_chat_template: bool = True,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.teacher = teacher
        self.selector = selector
        self.max_new_tokens = max_new_tokens
        self.seed = seed
        self.use_chat_template = use_chat_template

    @property
    def has_adapter(self) -> bool:
        """Whether the student has one."""
        return has_adapter(unwrap_model(self.model))

    def choosers(self, policy: Policy) -> dict[str, Any]:
        """The selector and the teacher that a policy asks while the student decodes."""
        return {
            "selector": self.selector if policy.needs_selector else None,
            "teacher": self.teacher if policy.needs_teacher and not policy.by_teacher else None,
        }

    def check(self, policy: Policy) -> None:
        """Raises ValueError if the policy cannot run with what there is."""
        if policy.needs_teacher and self.teacher is None:
            raise ValueError(f"evaluate: teacher must be given for {policy.name}, got None")
        if policy.by_teacher and not hasattr(self.teacher, "model"):
            raise ValueError(
                f"evaluate: teacher must be a local model for {policy.name}, got a server"
            )
        if policy.needs_selector and self.selector is None:
            raise ValueError(f"evaluate: selector must be given for {policy.name}, got None")
        if policy.name == "adapted" and not self.has_adapter:
            raise ValueError("evaluate: selector must have an adapter for adapted, got none")
        is_pps = policy.config.select == "local" and policy.config.proposer == "base"
        if policy.needs_selector and is_pps and not self.has_adapter:
            raise ValueError(
                f"evaluate: selector must have an adapter for {policy.name} (without one s2t-local "
                "already lets the base model propose), got none"
            )

    def run(
        self,
        policy: Policy,
        prompts: Sequence[str],
        numbers: Sequence[int],
        on_step: Callable[[StepEvent], None] | None = None,
    ) -> list[Answer]:
        """The answers to a batch of prompts.

        Args:
            policy: How they are answered.
            prompts: The users' turns.
            numbers: Of the problems; they key the sampling.
            on_step: Called with every step of the batch.
        """
        model: Any = self.model
        if policy.by_teacher:
            model = getattr(self.teacher, "model")  # noqa: B009  (checked in `check`)
        rollouts = roll_out(
            model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            s2t=policy.config,
            temperature=policy.temperature,
            top_p=policy.top_p,
            paths=policy.paths,
            # A path's random numbers depend on its problem, not on its batch.
            seeds=[row_seed(self.seed, n, path) for n in numbers for path in range(policy.paths)],
            use_chat_template=self.use_chat_template,
            **self.choosers(policy),
            on_step=on_step,
        )
        return self._answers(policy, rollouts, len(prompts))

    def _answers(self, policy: Policy, rollouts: Rollouts, count: int) -> list[Answer]:
        record = rollouts.record
        passes, teacher = record.forward_passes, record.teacher_forward_passes
        through = record.tokens_through_model
        if policy.by_teacher:
            passes, teacher, through = 0, record.forward_passes, 0
        answers = []
        for b in range(count):
            rows = record.rows[b * policy.paths : (b + 1) * policy.paths]
            steps = sum(row.steps for row in rows)
            triggers = sum(len(row.triggered_steps) for row in rows)
            answers.append(
                Answer(
                    texts=[self.tokenizer.decode(r.tokens, skip_special_tokens=True) for r in rows],
                    tokens=steps,
                    truncated=sum(row.steps >= self.max_new_tokens for row in rows),
                    steps=steps,
                    triggers=triggers,
                    changed=sum(len(row.changed_steps) for row in rows),
                    forward_passes=passes / count,
                    tokens_through_model=through / count,
                    teacher_forward_passes=teacher / count,
                    teacher_steps=policy.teacher_steps(steps, triggers),
                    seconds=rollouts.seconds / count,
                    ended_by_choice=sum(row.ended_by_choice for row in rows),
                )
            )
        return answers
