"""The files of a task: prompts, or questions, to learn from, and problems to be tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2t_ext.cli.collecting.prompt_sources import grouped_prompts, task_prompts

if TYPE_CHECKING:
    from s2t_ext.evaluation.tasks import Problem
    from s2t_ext.runs.prompts import Prompt

#: Share of the questions of a file that are kept for the test.
TEST_SHARE = 0.25
#: Prompts of a task that are learnt from where nobody says how many.
LEARNT = 300
#: Not a collection's: what is learnt from has a held-out part of its own.
SALT = "test of a task"
PROMPTS_NAME, TEST_NAME = "prompts.jsonl", "test.jsonl"
#: The same as the prompts, with their answers, where all are known.
QUESTIONS_NAME = "questions.jsonl"
#: The first of the prompts, which are enough for a quantile.
CALIBRATION_NAME, CALIBRATION_PROMPTS = "calibration.jsonl", 64


@dataclass(frozen=True)
class TaskSource:
    """Where a task comes from; the options of `adapt`.

    Attributes:
        prompts: File of prompts, or of questions with answers; or None.
        test: File of questions with answers; None keeps a part of `prompts`.
        task: Name of a task instead; or None.
        problems: Prompts to learn from, at most.
        test_problems: Problems of the test, at most.
        seed: Of a task's prompts.
        by_group: Keep whole groups for the test.
        test_seed: Of a task's test.
        test_split: Of a task's test.
    """

    prompts: Path | None
    test: Path | None
    task: str | None
    problems: int | None
    test_problems: int | None
    seed: int
    by_group: bool
    test_seed: int
    test_split: str

    @classmethod
    def of(
        cls, options: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]
    ) -> TaskSource:
        """The source that options for all commands and sections of a recipe name."""
        collect, evaluate = ({**options, **sections[name]} for name in ("collect", "evaluate"))
        prompts, test = options.get("prompts"), options.get("test")
        return cls(
            prompts=None if prompts is None else Path(prompts),
            test=None if test is None else Path(test),
            task=options.get("task"),
            problems=options.get("problems"),
            test_problems=options.get("test_problems"),
            seed=int(collect.get("seed", 0)),
            by_group=collect.get("held_out_by") == "group",
            test_seed=int(evaluate.get("seed", 0)),
            test_split=str(evaluate.get("split", "held_out")),
        )

    def has_answers(self) -> bool:
        """Whether the answers to all that is learnt from are known."""
        if self.prompts is None:
            return True
        if self.prompts.suffix != ".jsonl":
            return False
        try:
            items = [json.loads(line) for line in _lines(self.prompts)]
        except json.JSONDecodeError:
            return False  # what reads it as prompts says so
        return all(isinstance(item, dict) and _is_answered(item) for item in items)

    def __post_init__(self) -> None:
        if (self.prompts is None) == (self.task is None):
            raise ValueError("one of --prompts and --task must be given, got both or none")
        if self.task is not None and (self.test is not None or self.task.endswith(".jsonl")):
            raise ValueError(
                "--prompts must be given for problems of a file, with --test or alone, got --task "
                f"{self.task}"
            )
        for name, path in (("prompts", self.prompts), ("test", self.test)):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"--{name} must be a file, got {path}")


def write_task_files(source: TaskSource, folder: Path) -> Path | str | None:
    """Writes prompts.jsonl, questions.jsonl where answers are known, calibration.jsonl with the
    first of the prompts, and test.jsonl if the test is a part of a file; no prompt is learnt from
    and in the test.

    Args:
        source: Of the task.
        folder: Where they are written.

    Returns:
        What `evaluate --task` takes: a name, a file, or None without answers to grade.

    Raises:
        ValueError: if nothing is left to learn from. ImportError: without the package that the
            test is graded with.
    """
    from s2t_ext.evaluation.grading import Grader
    from s2t_ext.runs.files import write_atomically

    learnt, tested, test = _task(source) if source.task is not None else _files(source, folder)
    Grader.check(tested)  # before anything is collected
    texts = {problem.prompt for problem in tested}
    learnt = [prompt for prompt in learnt if prompt.text not in texts][: source.problems]
    if not learnt:
        raise ValueError(
            "--prompts or --task must hold prompts that are not in the test, got none (give "
            "`evaluate` another seed than `collect`)"
        )
    lines = [json.dumps({"prompt": p.text, "group": p.group}) + "\n" for p in learnt]
    write_atomically(folder / PROMPTS_NAME, "".join(lines))
    write_atomically(folder / CALIBRATION_NAME, "".join(lines[:CALIBRATION_PROMPTS]))
    if source.has_answers():
        known = _questions(source)
        lines = [json.dumps(known[prompt.text]) + "\n" for prompt in learnt]
        write_atomically(folder / QUESTIONS_NAME, "".join(lines))
    return test


def _is_answered(item: Mapping[str, Any]) -> bool:
    return all(item.get(name) is not None for name in ("question", "answer"))


def _lines(path: Path) -> list[str]:
    from s2t_ext.runs.files import read_text

    return [line for line in read_text(path, "--prompts").split("\n") if line.strip()]


def _questions(source: TaskSource) -> dict[str, dict[str, str]]:
    """{"question", "answer"}, as `load_task` reads them, by their prompts."""
    from s2t_ext.evaluation.tasks import load_task

    if source.task is not None:
        found = load_task(source.task, source.problems or LEARNT, seed=source.seed, split="train")
    else:
        found = load_task(str(source.prompts))
    return {
        p.prompt: dict(
            question=p.prompt, answer=p.answer, kind=p.kind, group=p.group, instruction=""
        )
        for p in found
    }


def _task(source: TaskSource) -> tuple[list[Prompt], list[Problem], str]:
    from s2t_ext.evaluation.tasks import load_task

    assert source.task is not None
    tested = load_task(
        source.task, source.test_problems, seed=source.test_seed, split=source.test_split
    )
    return task_prompts(source.task, source.problems or LEARNT, source.seed), tested, source.task


def _files(source: TaskSource, folder: Path) -> tuple[list[Prompt], list[Problem], Path | None]:
    """(prompts, problems of the test, its file) of files of the user's."""
    from s2t_ext.evaluation.tasks import load_task, question_prompt
    from s2t_ext.runs.files import write_atomically
    from s2t_ext.runs.prompts import Prompt

    assert source.prompts is not None
    prompts = grouped_prompts(source.prompts)
    if source.prompts.suffix != ".jsonl":
        test = source.test
        return prompts, load_task(str(test)) if test is not None else [], test
    lines = _lines(source.prompts)
    items = [json.loads(line) for line in lines]
    # Questions are asked as the test asks them.
    asked = [
        Prompt(question_prompt(item), prompt.group) if "question" in item else prompt
        for item, prompt in zip(items, prompts, strict=True)
    ]
    if source.test is not None:
        return asked, load_task(str(source.test)), source.test
    if not all(_is_answered(item) for item in items):
        return asked, [], None
    keys = [p if source.by_group else Prompt(p.text) for p in asked]
    is_test = [key.is_held_out(TEST_SHARE, SALT) for key in keys]
    kept = [line + "\n" for line, chosen in zip(lines, is_test, strict=True) if chosen]
    if not kept:
        return asked, [], None
    path = folder / TEST_NAME
    write_atomically(path, "".join(kept))
    learnt = [prompt for prompt, chosen in zip(asked, is_test, strict=True) if not chosen]
    return learnt, load_task(str(path)), path
