"""The prompts that a command's --prompts or --task names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from s2t_ext.runs.given_files import read_prompt_records

if TYPE_CHECKING:
    from s2t_ext.runs.prompts import Prompt


def task_prompts(task: str, count: int, seed: int) -> list[Prompt]:
    """Prompts of a task's train split, with their groups (templates)."""
    from s2t_ext.evaluation.tasks import load_task
    from s2t_ext.runs.prompts import Prompt

    found = load_task(task, count, seed=seed, split="train")
    return [Prompt(problem.prompt, problem.group) for problem in found]


def grouped_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, with their groups where JSON lines name one."""
    from s2t_ext.runs.prompts import Prompt

    return [
        Prompt(text, "" if record.get("group") is None else str(record["group"]))
        for text, record in read_prompt_records(path)
    ]
