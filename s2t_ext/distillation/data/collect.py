"""Collecting: roll the student out, have the teacher label every step in one prefill, keep the
steps where they diverge most (paper, section 3.4).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.data.labeller import STEPS, Labeller
from s2t_ext.distillation.data.rollouts import DecodedRollouts, RecordedRollouts
from s2t_ext.hf.identity import check_same_tokenizer, describe_base_model
from s2t_ext.runs.checks import require
from s2t_ext.runs.processes import share_of_this_process
from s2t_ext.runs.prompts import Prompt
from s2t_ext.teachers.base import Teacher, describe_teacher


def collect(
    model: nn.Module,
    tokenizer: Any,
    teacher: Teacher,
    prompts: Sequence[str | Prompt],
    output: str | Path,
    *,
    k: int = 16,
    support: int = 64,
    share: float = 0.1,
    steps: str = "kl",
    rollouts: int = 1,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    held_out: float = 0.1,
    reserved_ids: Sequence[int] = (),
    use_chat_template: bool = True,
    seed: int = 0,
    rollouts_from: str | Path | None = None,
    progress: bool | None = None,
) -> Collection:
    """Collects labelled trajectories; call it again with the same arguments to resume a killed run.

    Under `torchrun` or `accelerate launch` process i of n does the shards i, i + n, ... in the same
    folder, and returns when it has done them; the processes may be on several machines.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        teacher: Labels; its tokenizer, if it has one, must be the student's.
        prompts: Texts, or `Prompt` objects whose group decides the split.
        output: Folder of the collection.
        k: Candidates per group.
        support: Ids the divergence is taken over, k..64.
        share: Share of a trajectory's steps to keep, in (0, 1].
        steps: Which ones: "kl", those of highest KL(student || teacher), the paper's; "entropy",
            those at which the student is least certain, where an entropy trigger will fire; or
            "either", the union, up to twice the share.
        rollouts: Per prompt; 1 if they are greedy.
        temperature: Of sampling; 0 decodes greedily.
        max_new_tokens: Length of a rollout, tokens.
        batch_size: Rollouts at a time; a batch is a shard.
        held_out: Share of the prompts that is set aside.
        reserved_ids: Never proposed.
        seed: Key of the sampling; different seeds share no random numbers.
        rollouts_from: Folder of a finished collection of the same rollouts, which are read from it
            instead of decoded anew: to label them by another teacher or at other steps.
        progress: Show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: for options out of range, a teacher with another tokenizer, a folder with a
            collection of other settings, or `rollouts_from` a collection that is unfinished or of
            other rollouts.
        FileNotFoundError: if `rollouts_from` holds no collection.
    """
    _check(prompts, k, support, share, steps, held_out)
    _check_rollouts(rollouts, temperature, max_new_tokens, batch_size)
    if teacher.tokenizer is not None:
        check_same_tokenizer(tokenizer, teacher.tokenizer)
    jobs = [p if isinstance(p, Prompt) else Prompt(p) for p in prompts for _ in range(rollouts)]
    settings = {
        "student": describe_base_model(model),
        "teacher": describe_teacher(teacher),
        "tokenizer_sha256": _tokenizer_hash(tokenizer),
        "prompts_sha256": hashlib.sha256(
            json.dumps([[p.text, p.group] for p in jobs]).encode()
        ).hexdigest(),
        **dict(prompts=len(prompts), k=k, support=support, share=share, rollouts=rollouts),
        **dict(temperature=temperature, max_new_tokens=max_new_tokens, batch_size=batch_size),
        **dict(held_out=held_out, reserved_ids=list(reserved_ids), seed=seed),
        **dict(steps=steps, use_chat_template=use_chat_template),
    }
    source: DecodedRollouts | RecordedRollouts
    if rollouts_from is not None:
        source = RecordedRollouts(rollouts_from, settings)
    else:
        source = DecodedRollouts(model, tokenizer, [p.text for p in jobs], settings)
    collection = Collection.open_for_writing(output, settings, math.ceil(len(jobs) / batch_size))
    labeller = Labeller(
        model, teacher, k=k, support=support, share=share, steps=steps, blocked=reserved_ids
    )
    hidden = None if progress is None else not progress
    missing = share_of_this_process(collection.missing_shards())
    for index in tqdm(missing, desc="collect", unit="shard", disable=hidden):
        numbers = range(index * batch_size, min((index + 1) * batch_size, len(jobs)))
        splits = ["held_out" if jobs[i].is_held_out(held_out) else "train" for i in numbers]
        labelled = labeller.label_all([str(i) for i in numbers], source.pairs(numbers))
        collection.write_shard(index, list(zip(splits, labelled, strict=True)))
    return collection


def _tokenizer_hash(tokenizer: Any) -> str:
    entries = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(entries.encode()).hexdigest()


def _check(
    prompts: Sequence[Any], k: int, support: int, share: float, steps: str, held_out: float
) -> None:
    require(len(prompts) > 0, "collect", "prompts", "hold at least one text", "none")
    require(2 <= k <= 64, "collect", "k", "be in [2, 64]", k)
    require(k <= support <= 64, "collect", "support", f"be in [k, 64] with k = {k}", support)
    require(0 < share <= 1, "collect", "share", "be in (0, 1]", share)
    require(steps in STEPS, "collect", "steps", f"be one of {', '.join(STEPS)}", steps)
    require(0 <= held_out < 1, "collect", "held_out", "be in [0, 1)", held_out)


def _check_rollouts(
    rollouts: int, temperature: float, max_new_tokens: int, batch_size: int
) -> None:
    require(rollouts >= 1, "collect", "rollouts", "be at least 1", rollouts)
    require(temperature >= 0, "collect", "temperature", "be at least 0", temperature)
    several = rollouts == 1 or temperature > 0
    require(several, "collect", "rollouts", "be 1 at temperature 0, where all are alike", rollouts)
    require(max_new_tokens >= 1, "collect", "max_new_tokens", "be at least 1", max_new_tokens)
    require(batch_size >= 1, "collect", "batch_size", "be at least 1", batch_size)
