"""Which of a model's answers are worth learning from, for `collect_answers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from s2t_ext.evaluation.grading import Grader
from s2t_ext.evaluation.tasks import Problem


class RightAnswers:
    """Those that the answer key, or a program's tests, confirm.

    Args:
        problems: By the numbers of their prompts.

    Raises:
        ImportError: unless the packages that grade these problems are there.
    """

    name = "right"

    def __init__(self, problems: Sequence[Problem]) -> None:
        Grader.check(problems)
        self._problems = problems

    def __call__(self, prompts: Sequence[int], texts: Sequence[str]) -> list[bool]:
        """See `AnswerFilter`."""
        with Grader() as judge:
            return [
                judge.grade(self._problems[prompt], text).correct
                for prompt, text in zip(prompts, texts, strict=True)
            ]


class MajorityAnswers:
    """Those whose result more than half of the answers to the same prompt have.

    Args:
        problems: By the numbers of their prompts; with short answers.

    Raises:
        ImportError: as for `RightAnswers`. ValueError: for programs, which have no result to count.
    """

    name = "majority"

    def __init__(self, problems: Sequence[Problem]) -> None:
        Grader.check(problems)
        for problem in problems:
            if problem.kind == "code":
                raise ValueError(
                    f"MajorityAnswers: problems must have short answers, got code: {problem.key}"
                )
        self._problems = problems

    def __call__(self, prompts: Sequence[int], texts: Sequence[str]) -> list[bool]:
        """See `AnswerFilter`."""
        with Grader() as judge:
            results = [
                judge.grade(self._problems[prompt], text).answer
                for prompt, text in zip(prompts, texts, strict=True)
            ]
        asked = Counter(prompts)
        votes = Counter(zip(prompts, results, strict=True))
        return [
            result is not None and 2 * votes[prompt, result] > asked[prompt]
            for prompt, result in zip(prompts, results, strict=True)
        ]
