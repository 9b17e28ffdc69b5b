"""The prompts that a command's --prompts or --task names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from s2t_ext.cli.common import read_prompts

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

    texts = read_prompts(path)
    if path.suffix != ".jsonl":
        return [Prompt(text) for text in texts]
    lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    return [
        Prompt(t, "" if r.get("group") is None else str(r["group"]))
        for t, r in zip(texts, lines, strict=True)
    ]
