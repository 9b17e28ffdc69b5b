"""Policies in a vLLM engine: plain, by majority, and with a selector's choices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from s2t_ext.decoding.record import StepEvent
from s2t_ext.evaluation.policies import Policy
from s2t_ext.evaluation.policy_runner import Answer, PolicyRunner
from s2t_ext.rollouts import EngineAnswer, engine_options, roll_out_in_engine
from s2t_ext.runs.seeds import row_seed


class EngineRunner(PolicyRunner):
    """Runs policies in an engine, which serves all paths of a batch at once.

    Args:
        llm: A `vllm.LLM` of the student; with a selector, one that has our worker.
        *arguments: As of `PolicyRunner`.
        **options: As of `PolicyRunner`.
    """

    def __init__(self, llm: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.llm = llm

    def check(self, policy: Policy) -> None:
        """Raises ValueError if the policy cannot run in an engine."""
        super().check(policy)
        if policy.needs_teacher or policy.name == "adapted":
            raise ValueError(
                f"evaluate: policies must be greedy, maj@K or s2t-local in an engine, got "
                f"{policy.name!r}"
            )
        if policy.needs_selector and policy.config.proposer == "base":
            raise ValueError(
                f"evaluate: proposer must be 'adapted' in an engine, got {policy.name}"
            )
        if self.selector is not None and self.selector.adapted_model is not None:
            raise ValueError(
                "evaluate: selector must have no adapter in an engine (s2t_ext export merges it "
                "into the model), got one"
            )

    def run(
        self,
        policy: Policy,
        prompts: Sequence[str],
        numbers: Sequence[int],
        on_step: Callable[[StepEvent], None] | None = None,
    ) -> list[Answer]:
        """See `PolicyRunner.run`; an engine shows no single steps."""
        start = time.perf_counter()
        answers = roll_out_in_engine(
            self.llm,
            self.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            seeds=[row_seed(self.seed, n, path) for n in numbers for path in range(policy.paths)],
            temperature=policy.temperature,
            top_p=policy.top_p,
            paths=policy.paths,
            use_chat_template=self.use_chat_template,
            request_options=(
                engine_options(policy.config, self.selector) if policy.needs_selector else None
            ),
        )
        seconds = (time.perf_counter() - start) / max(len(prompts), 1)
        return [
            self._answer(answers[b * policy.paths : (b + 1) * policy.paths], policy, seconds)
            for b in range(len(prompts))
        ]

    def _answer(self, paths: Sequence[EngineAnswer], policy: Policy, seconds: float) -> Answer:
        tokens = sum(len(path.response) for path in paths)
        triggers = sum(path.triggers for path in paths)
        return Answer(
            texts=[self.tokenizer.decode(p.response, skip_special_tokens=True) for p in paths],
            tokens=tokens,
            truncated=sum(len(path.response) >= self.max_new_tokens for path in paths),
            steps=tokens,
            triggers=triggers,
            changed=sum(path.changed for path in paths),
            forward_passes=0.0,  # the engine's are shared by whatever it serves at the time
            tokens_through_model=float(
                sum(len(p.prompt) + len(p.response) - 1 for p in paths) + triggers * policy.config.k
            ),
            teacher_forward_passes=0.0,
            seconds=seconds,
        )
