"""Evaluating policies on problems: resumable, a line per problem, intervals and paired tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from s2t_ext.evaluation.engine_runner import EngineRunner
from s2t_ext.evaluation.grading import Grader
from s2t_ext.evaluation.policies import Policy, make_policy
from s2t_ext.evaluation.policy_runner import Answer, PolicyRunner
from s2t_ext.evaluation.report import summarize, write_reports
from s2t_ext.evaluation.tasks import Problem
from s2t_ext.hf.identity import check_same_tokenizer, describe_model
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.runs.files import read_json
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.processes import share_of_this_process
from s2t_ext.runs.run_folder import RunFolder, differing
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher, describe_teacher


@checked_numbers
def evaluate(
    model: nn.Module,
    tokenizer: Any,
    problems: Sequence[Problem],
    output: str | Path,
    *,
    policies: Sequence[str | Policy] = ("greedy", "s2t-local"),
    teacher: Teacher | None = None,
    selector: Selector | None = None,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    seed: int = 0,
    use_chat_template: bool = True,
    grader: Grader | None = None,
    engine: Any = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Answers every problem with every policy, grades, and compares.

    Call it again with the same arguments to resume an interrupted run, or with further policies to
    extend a finished one. Under `torchrun` or `accelerate launch` process i of n answers the
    problems i, i + n, ... in the same folder, and returns when it has done them; the last one
    writes the whole summary.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        problems: See `s2t_ext.evaluation.tasks.load_task`.
        output: Folder of the run: settings, versions, `results/POLICY.jsonl` with a line per
            problem, `summary.json`, `summary.md` and, with matplotlib, `accuracy.png`.
        policies: Names (see `s2t_ext.evaluation.policies.POLICIES`) or `Policy` objects.
        teacher: For the policies that need one.
        selector: For the policies that need one.
        max_new_tokens: Length of an answer, tokens.
        batch_size: Answers at a time.
        seed: Of sampling and bootstrap.
        grader: Limits of the grading; None takes the defaults.
        engine: A `vllm.LLM` of the student, which answers instead, a batch at once: greedily, by
            majority, or with a selector's choices if it has our worker. Its random numbers are its
            own, so the settings of a policy name it; it does not tell its forward passes.
        progress: Show a progress bar per policy; None shows it on a terminal.

    Returns:
        The summary of what is done, see `s2t_ext.evaluation.report.summarize`.

    Raises:
        ValueError: for policies that lack what they need, repeated problems, or a folder of another
            run. ImportError: without the package a task is graded with.
    """
    chosen = [make_policy(p, selector=selector) if isinstance(p, str) else p for p in policies]
    _check(problems, chosen)
    Grader.check(problems)
    if teacher is not None and teacher.tokenizer is not None:
        check_same_tokenizer(tokenizer, teacher.tokenizer, "evaluate")
    options: dict[str, Any] = dict(
        max_new_tokens=max_new_tokens, seed=seed, use_chat_template=use_chat_template
    )
    parts = (model, tokenizer, teacher, selector)
    runner = EngineRunner(engine, *parts, **options) if engine else PolicyRunner(*parts, **options)
    for policy in chosen:
        runner.check(policy)
    settings = {
        "student": describe_model(unwrap_model(model)),
        "problems": len(problems),
        "problems_sha256": _digest([p.to_dict() for p in problems]),
        **options,
    }
    run = RunFolder(output, settings, "evaluate")
    try:
        with grader or Grader() as judge:
            for policy in chosen:
                _settle(run, policy, teacher, selector, engine is not None)
                _run_policy(run, runner, judge, policy, problems, batch_size, progress)
    finally:  # an interrupted run has a summary too, of what there is
        summary = _summarize(run, problems, seed)
    return summary


def _summarize(run: RunFolder, problems: Sequence[Problem], seed: int) -> dict[str, Any]:
    """Writes and returns the summary of the results so far.

    Of processes that end together one may write after another that has seen more: whoever has
    written looks again whether a policy is finished by now.
    """

    def finished() -> set[str]:
        return {name for name, rows in found.items() if len(rows) == len(problems)}

    found = results_so_far(run, problems)
    while True:
        before = finished()
        summary = summarize(found, seed=seed)
        write_reports(run, summary)
        found = results_so_far(run, problems)
        if finished() == before:
            break
    for name in before:
        run.merge(name, found[name])
    return summary


def _check(problems: Sequence[Problem], policies: Sequence[Policy]) -> None:
    if not problems:
        raise ValueError("evaluate: problems must hold at least one, got none")
    if not policies:
        raise ValueError("evaluate: policies must hold at least one, got none")
    keys = [p.key for p in problems]
    repeated = sorted({key for key in keys if keys.count(key) > 1}) if len(keys) < 20_000 else []
    if repeated or len(set(keys)) < len(keys):
        raise ValueError(f"evaluate: problems must have different keys, got {repeated[:3]} twice")
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluate: policies must have different names, got {names}")
    votes = next((policy.name for policy in policies if policy.paths > 1), None)
    if votes and any(p.kind == "code" for p in problems):
        raise ValueError(f"evaluate: policies must not vote on programs, got {votes}")


def _settle(
    run: RunFolder,
    policy: Policy,
    teacher: Teacher | None,
    selector: Selector | None,
    in_engine: bool,
) -> None:
    """Writes down what decides a policy's results, or refuses to mix two that differ."""
    settings: dict[str, Any] = policy.to_dict()
    if in_engine:
        settings["engine"] = "vllm"
    if policy.needs_teacher:
        assert teacher is not None
        settings["teacher"] = describe_teacher(teacher)
    if policy.needs_selector:
        assert selector is not None
        settings["selector"] = _describe_selector(selector)
    path = run.folder / "policies" / f"{policy.name}.json"
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        run.write(f"policies/{policy.name}.json", settings)
    elif differing(read_json(path, "evaluate"), settings):
        raise ValueError(
            f"evaluate: output must have no results of another {policy.name!r}, got some with "
            f"other settings: {path}"
        )


def _run_policy(
    run: RunFolder,
    runner: PolicyRunner,
    judge: Grader,
    policy: Policy,
    problems: Sequence[Problem],
    batch_size: int,
    progress: bool | None,
) -> None:
    done = {result["key"] for result in run.results(policy.name)}
    own = share_of_this_process(range(len(problems)))
    todo = [(number, problems[number]) for number in own if problems[number].key not in done]
    correct = 0
    with tqdm(
        total=len(own),
        initial=len(own) - len(todo),
        desc=policy.name,
        unit="problem",
        disable=None if progress is None else not progress,
    ) as bar:
        for begin in range(0, len(todo), batch_size):
            part = todo[begin : begin + batch_size]
            answers = runner.run(policy, [p.prompt for _, p in part], [n for n, _ in part])
            for (number, problem), answer in zip(part, answers, strict=True):
                result = _result(judge, number, problem, answer)
                run.append(policy.name, result)
                correct += result["correct"]
                bar.update()
            bar.set_postfix(accuracy=f"{correct / (begin + len(part)):.3f}")


def _result(judge: Grader, number: int, problem: Problem, answer: Answer) -> dict[str, Any]:
    if len(answer.texts) == 1:
        winner, grades = 0, [judge.grade(problem, answer.texts[0])]
    else:
        winner, grades = judge.vote(problem, answer.texts)
    return {
        "number": number,
        "key": problem.key,
        "task": problem.task,
        "group": problem.group,
        "expected": problem.answer,
        **asdict(grades[winner]),
        "winner": winner,
        "paths_correct": sum(grade.correct for grade in grades),
        **asdict(answer),
    }


def results_so_far(run: RunFolder, problems: Sequence[Problem]) -> dict[str, list[dict[str, Any]]]:
    """Policy -> its results in the order of the problems, policies in the order of their start."""
    files = sorted((run.folder / "policies").glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    found = {}
    for file in files:
        by_key = {result["key"]: result for result in run.results(file.stem)}
        rows = [by_key[problem.key] for problem in problems if problem.key in by_key]
        if rows:
            found[file.stem] = rows
    return found


def _describe_selector(selector: Selector) -> dict[str, Any]:
    tensors = [selector.rows]
    if selector.projection is not None:
        tensors += selector.projection.tensors().values()
    numbers = b"".join(t.detach().float().cpu().contiguous().numpy().tobytes() for t in tensors)
    digest = hashlib.sha256(numbers).hexdigest()
    calibrations = {name: c.to_dict() for name, c in selector.calibrations.items()}
    return {
        "rows_sha256": digest,
        "layer": selector.layer,
        "prior_weight": selector.prior_weight,
        "adapter": selector.adapted_model is not None,
        "calibrations": calibrations,
    }


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
