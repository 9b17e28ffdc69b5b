"""What every collection has: sources that its settings name, a split, shards done one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.hf.identity import describe_model, tokenizer_hash
from s2t_ext.runs.checks import require
from s2t_ext.runs.processes import share_of_this_process
from s2t_ext.runs.prompts import Prompt, choose_held_out
from s2t_ext.teachers.base import Teacher, describe_teacher

#: What shares a split: the prompts of one group, or equal prompts alone.
HELD_OUT_BY = ("group", "prompt")

#: (collection, number of a shard, numbers of its rollouts, their splits): writes the shard.
WriteShard = Callable[[Collection, int, Sequence[int], Sequence[str]], None]


def describe_sources(
    model: nn.Module, tokenizer: Any, teacher: Teacher | None, jobs: Sequence[Prompt]
) -> dict[str, Any]:
    """What the settings of a collection say of the models and the prompts."""
    prompts = json.dumps([[p.text, p.group] for p in jobs])
    return {
        "student": describe_model(model),
        "teacher": None if teacher is None else describe_teacher(teacher),
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
    }


def held_out_flags(jobs: Sequence[Prompt], share: float, by: str) -> list[bool]:
    """Which rollouts are set aside.

    Args:
        jobs: The prompt of each rollout.
        share: Of the prompts, in [0, 1).
        by: One of `HELD_OUT_BY`.

    Raises:
        ValueError: for a share or a rule out of range.
    """
    require(0 <= share < 1, "collect", "held_out", "be in [0, 1)", share)
    require(by in HELD_OUT_BY, "collect", "held_out_by", f"be one of {', '.join(HELD_OUT_BY)}", by)
    if by == "prompt":
        jobs = [replace(job, group="") for job in jobs]
    return choose_held_out(jobs, share)


def collect_missing(
    collection: Collection,
    held_out: Sequence[bool],
    size: int,
    write: WriteShard,
    progress: bool | None,
) -> None:
    """Has this process's share of the shards written that are not there yet.

    Args:
        collection: Open for writing.
        held_out: Of each rollout.
        size: Rollouts of a shard.
        write: Decodes, labels and writes one.
        progress: Show a progress bar; None shows it on a terminal.
    """
    missing = share_of_this_process(collection.missing_shards())
    bar = tqdm(
        missing,
        desc="collect",
        unit="shard",
        initial=len(share_of_this_process(range(collection.num_shards))) - len(missing),
        total=len(share_of_this_process(range(collection.num_shards))),
        disable=None if progress is None else not progress,
    )
    for index in bar:
        numbers = range(index * size, min((index + 1) * size, len(held_out)))
        write(collection, index, numbers, ["held_out" if held_out[i] else "train" for i in numbers])
