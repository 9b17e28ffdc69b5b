"""The frontier: accuracy against cost over trigger kinds and rates, to pick an operating point."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.evaluation.evaluate import evaluate
from s2t_ext.evaluation.frontier_report import write_frontier
from s2t_ext.evaluation.policies import Policy, make_policy
from s2t_ext.evaluation.policy_runner import PolicyRunner
from s2t_ext.evaluation.tasks import Problem
from s2t_ext.rollouts import trigger_statistics
from s2t_ext.runs.checks import require
from s2t_ext.runs.files import read_json, write_atomically
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.selectors.selector import Selector
from s2t_ext.selectors.thresholds import threshold_at_rate
from s2t_ext.teachers.base import Teacher
from s2t_ext.triggers import TRIGGERS

#: What chooses at the points: the teacher, or the selector.
CHOOSERS = ("s2t", "s2t-local")
RATES = (0.05, 0.1, 0.2, 0.3)
THRESHOLDS_NAME = "thresholds.json"


@dataclass(frozen=True)
class Point:
    """One operating point.

    Attributes:
        chooser: One of `CHOOSERS`.
        trigger: Name of the trigger.
        rate: Share of the steps that it should fire at.
        threshold: At which it does, on the calibration prompts.
    """

    chooser: str
    trigger: str
    rate: float
    threshold: float

    @property
    def name(self) -> str:
        """Of its policy."""
        return f"{self.chooser}@{self.trigger}-{self.rate:g}"


@checked_numbers
def frontier(
    model: nn.Module,
    tokenizer: Any,
    problems: Sequence[Problem],
    output: str | Path,
    *,
    calibration_prompts: Sequence[str],
    triggers: Sequence[str] = ("entropy",),
    rates: Sequence[float] = RATES,
    choosers: Sequence[str] | None = None,
    beside: Sequence[str] = ("greedy",),
    teacher: Teacher | None = None,
    selector: Selector | None = None,
    k: int | None = None,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    seed: int = 0,
    use_chat_template: bool = True,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Evaluates every trigger at every rate on the same problems; each point is a policy, decoded
    as if alone.

    Call it again with the same arguments to resume an interrupted run, or with further triggers and
    rates to extend a finished one.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        problems: See `load_task`.
        output: Folder of the run: as of `evaluate`, with thresholds.json, frontier.json,
            frontier.md and, with matplotlib, frontier.png.
        calibration_prompts: Texts on whose greedy rollouts the thresholds are taken. They should
            not be those of the problems.
        triggers: Names of triggers: "entropy", "margin", "head", "kl", "random".
        rates: Shares of the steps, in (0, 1).
        choosers: "s2t" (the teacher chooses) and "s2t-local" (the selector does); None takes those
            for which a teacher and a selector are given.
        beside: Names of policies that are evaluated too.
        teacher: For "s2t", for the kl trigger, and for the policies that need one.
        selector: For "s2t-local" and the head trigger.
        k: Candidates per choice; None takes the selector's for "s2t-local", else 8.
        max_new_tokens: Length of an answer, tokens.
        batch_size: Answers at a time.
        seed: Of sampling and bootstrap.
        progress: Show progress bars; None shows them on a terminal.

    Returns:
        The summary of `evaluate`, and `points`: for each policy but those beside, chooser, trigger,
        rate and threshold.

    Raises:
        ValueError: for triggers, rates or choosers that cannot be used, and as `evaluate`.
    """
    if choosers is None:
        choosers = [c for c, given in zip(CHOOSERS, (teacher, selector), strict=True) if given]
    _check(triggers, rates, choosers, calibration_prompts)
    options: dict[str, Any] = dict(
        max_new_tokens=max_new_tokens, use_chat_template=use_chat_template
    )
    runner = PolicyRunner(model, tokenizer, teacher, selector, seed=seed, **options)
    thresholds = _Thresholds(Path(output), calibration_prompts, max_new_tokens)
    others = [make_policy(name, selector=selector) for name in beside]
    policies = {policy.name: policy for policy in others}
    points = {}
    for chooser in choosers:
        for trigger in triggers:
            policy = _policy(chooser, trigger, TRIGGERS[trigger].range[1], chooser, selector, k)
            runner.check(policy)
            found = thresholds.at_rates(runner, policy, rates, batch_size, progress)
            for rate, threshold in zip(rates, found, strict=True):
                point = Point(chooser, trigger, rate, threshold)
                points[point.name] = asdict(point)
                policies[point.name] = _policy(chooser, trigger, threshold, point.name, selector, k)
    summary = evaluate(
        model,
        tokenizer,
        problems,
        output,
        policies=list(policies.values()),
        teacher=teacher,
        selector=selector,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
        **options,
    )
    summary["points"] = points
    write_frontier(Path(output), summary)
    return summary


def _policy(
    chooser: str,
    trigger: str,
    threshold: float,
    name: str,
    selector: Selector | None,
    k: int | None,
) -> Policy:
    kind = "teacher" if chooser == "s2t" else "local"
    asked: dict[str, Any] = {f"{kind}_trigger": trigger, f"{kind}_threshold": threshold}
    policy = make_policy(name, selector=selector, k=k, **asked)
    reads_head = TRIGGERS[trigger].reads_hidden_state
    return replace(policy, needs_selector=policy.needs_selector or reads_head)


class _Thresholds:
    """Thresholds at rates, kept in the folder of the run."""

    def __init__(self, folder: Path, prompts: Sequence[str], max_new_tokens: int) -> None:
        self._path, self._prompts = folder / THRESHOLDS_NAME, prompts
        content = json.dumps([list(prompts), max_new_tokens])
        self._digest = hashlib.sha256(content.encode()).hexdigest()
        self._known: dict[str, Any] = {"prompts_sha256": self._digest, "thresholds": {}}
        if self._path.exists():
            self._known = read_json(self._path, "frontier")
            if self._known.get("prompts_sha256") != self._digest:
                raise ValueError(
                    "frontier: calibration_prompts must be those of the run in output, got others: "
                    f"{folder}"
                )

    def at_rates(
        self,
        runner: PolicyRunner,
        policy: Policy,
        rates: Sequence[float],
        batch_size: int,
        progress: bool | None,
    ) -> list[float]:
        """The thresholds at which a policy's trigger fires at these rates."""
        trigger = policy.config.trigger
        if trigger == "random":
            return [float(rate) for rate in rates]
        proposer = policy.config.proposer if runner.has_adapter else "base"
        stored = self._known["thresholds"].setdefault(f"{trigger}, {proposer} model", {})
        if any(f"{rate:g}" not in stored for rate in rates):
            statistics = trigger_statistics(
                runner.model,
                runner.tokenizer,
                self._prompts,
                policy.config,
                batch_size=batch_size,
                max_new_tokens=runner.max_new_tokens,
                use_chat_template=runner.use_chat_template,
                progress=progress,
                **runner.choosers(policy),
            )
            for rate in rates:
                found = threshold_at_rate(statistics, rate, trigger)
                stored.setdefault(f"{rate:g}", found.threshold)
            write_atomically(self._path, json.dumps(self._known, indent=2) + "\n")
        return [float(stored[f"{rate:g}"]) for rate in rates]


def _check(
    triggers: Sequence[str],
    rates: Sequence[float],
    choosers: Sequence[str],
    prompts: Sequence[str],
) -> None:
    require(len(prompts) > 0, "frontier", "calibration_prompts", "hold at least one text", "none")
    known = [name for name, kind in TRIGGERS.items() if kind.has_threshold]
    for name, values, allowed in (
        ("triggers", triggers, known),
        ("choosers", choosers, list(CHOOSERS)),
    ):
        rule = f"be of {', '.join(allowed)}, at least one, and each once"
        fits = len(set(values)) == len(values) > 0 and set(values) <= set(allowed)
        require(fits, "frontier", name, rule, list(values))
    fits = len(set(rates)) == len(rates) > 0 and all(0 < rate < 1 for rate in rates)
    require(fits, "frontier", "rates", "lie in (0, 1), at least one, and each once", list(rates))
