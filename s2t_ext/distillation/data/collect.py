"""Collecting: roll the student out, have the teacher label every step in one prefill, keep the
steps where they diverge most (paper, section 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.data.labeller import STEPS, Labeller
from s2t_ext.distillation.data.rollouts import (
    Rollouts,
    check_decoding,
    check_rollouts,
    describe_decoding,
    rollout_source,
)
from s2t_ext.distillation.data.shards import collect_missing, describe_sources, held_out_flags
from s2t_ext.hf.identity import check_same_tokenizer
from s2t_ext.runs.checks import require
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.prompts import Prompt
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher, check_another_model


@checked_numbers
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
    entropy_threshold: float | None = None,
    decoding: S2TConfig | None = None,
    selector: Selector | None = None,
    rollouts: int = 1,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    held_out: float = 0.1,
    held_out_by: str = "group",
    reserved_ids: Sequence[int] = (),
    use_chat_template: bool = True,
    seed: int = 0,
    rollouts_from: str | Path | None = None,
    teacher_topk: int = 0,
    engine: Any = None,
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
        entropy_threshold: With "entropy" and "either": keep, instead of a share, every step whose
            entropy is above this, nats: those at which an entropy trigger of this threshold fires.
        decoding: How the student decodes the rollouts, so that the states are those that decoding
            meets: with the teacher's choices (`select="teacher"`) or a selector's
            (`select="local"`). None: by itself.
        selector: For `select="local"`; one without adapter.
        rollouts: Per prompt; 1 if they are greedy.
        temperature: Of sampling; 0 decodes greedily.
        max_new_tokens: Length of a rollout, tokens.
        batch_size: Rollouts at a time; a batch is a shard.
        held_out: Share of the prompts that is set aside, met as closely as whole groups allow.
        held_out_by: "group": prompts of a group (a template) share a split, so that the held-out
            part measures transfer to new groups. "prompt": only equal prompts do, so that it
            measures other prompts of the same kinds.
        reserved_ids: Never proposed.
        seed: Key of the sampling; different seeds share no random numbers.
        rollouts_from: Where rollouts are read from instead of decoded anew: the folder of a
            finished collection of the same ones, to label them by another teacher or at other
            steps; or a `.jsonl` file of `{"prompt": [ids], "response": [ids]}`, a line for each
            prompt's rollouts in turn, made by any program.
        teacher_topk: How many of the teacher's own likeliest tokens to keep of every step, 0..64:
            what `LossConfig.teacher_kl_weight` trains towards. 6 * teacher_topk + 2 bytes a step.
        engine: A `vllm.LLM` of the student, which decodes the rollouts, a batch at once; with
            `Teacher.from_vllm` another one labels them. The student itself then only gives its
            candidates. Sampling draws vLLM's random numbers, so the settings name the engine.
        progress: Show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: for options out of range, a teacher with another tokenizer or that is the
            student itself, a folder with a collection of other settings, or `rollouts_from` a
            collection that is unfinished or of other rollouts, or a file of anything else.
        FileNotFoundError: if `rollouts_from` holds no collection, or is no file.
    """
    _check(prompts, k, support, share)
    _check_steps(steps, entropy_threshold, teacher_topk)
    check_rollouts(rollouts, temperature, max_new_tokens, batch_size)
    check_decoding(decoding, selector)
    _check_teacher(model, tokenizer, teacher)
    jobs = [p if isinstance(p, Prompt) else Prompt(p) for p in prompts for _ in range(rollouts)]
    settings = {
        **describe_sources(model, tokenizer, teacher, jobs),
        **dict(prompts=len(prompts), k=k, support=support, share=share, rollouts=rollouts),
        **dict(temperature=temperature, max_new_tokens=max_new_tokens, batch_size=batch_size),
        **dict(held_out=held_out, reserved_ids=list(reserved_ids), seed=seed),
        "split": "nearest share",  # `choose_held_out`; shards of another rule do not go with it
        **dict(steps=steps, use_chat_template=use_chat_template),
        **_beside_the_defaults(
            entropy_threshold=entropy_threshold,
            held_out_by=None if held_out_by == "group" else held_out_by,
            decoding=describe_decoding(decoding, selector),
            teacher_topk=teacher_topk or None,
        ),
    }
    flags = held_out_flags(jobs, held_out, held_out_by)
    choosers: dict[str, Any] = dict(decoding=decoding, selector=selector, teacher=teacher)
    texts = [p.text for p in jobs]
    source = rollout_source(
        *(model, tokenizer, texts, settings), path=rollouts_from, engine=engine, **choosers
    )
    settings |= source.origin
    collection = Collection.open_for_writing(output, settings, math.ceil(len(jobs) / batch_size))
    labelled = _Labelled(source, Labeller.of(settings, model, teacher))
    collect_missing(collection, flags, batch_size, labelled.write, progress)
    return collection


class _Labelled:
    """Writes the rollouts of a shard with their labels."""

    def __init__(self, source: Rollouts, labeller: Labeller) -> None:
        self._source, self._labeller = source, labeller

    def write(
        self, collection: Collection, index: int, numbers: Sequence[int], splits: Sequence[str]
    ) -> None:
        """One shard."""
        labelled = self._labeller.label_all([str(i) for i in numbers], self._source.pairs(numbers))
        records = [(s, one.trajectory) for s, one in zip(splits, labelled, strict=True)]
        tokens = {one.trajectory.key: one.top for one in labelled if one.top is not None}
        collection.write_shard(index, records, tokens if self._labeller.teacher_topk else None)


def _beside_the_defaults(**settings: Any) -> dict[str, Any]:
    """The settings that are not None: a manifest holds those that were asked for."""
    return {name: value for name, value in settings.items() if value is not None}


def _check(prompts: Sequence[Any], k: int, support: int, share: float) -> None:
    require(len(prompts) > 0, "collect", "prompts", "hold at least one text", "none")
    require(2 <= k <= 64, "collect", "k", "be in [2, 64]", k)
    require(k <= support <= 64, "collect", "support", f"be in [k, 64] with k = {k}", support)
    require(0 < share <= 1, "collect", "share", "be in (0, 1]", share)


def _check_teacher(model: nn.Module, tokenizer: Any, teacher: Teacher) -> None:
    if teacher.tokenizer is not None:
        check_same_tokenizer(tokenizer, teacher.tokenizer, "collect")
    check_another_model("collect", model, teacher)


def _check_steps(steps: str, entropy_threshold: float | None, teacher_topk: int) -> None:
    require(0 <= teacher_topk <= 64, "collect", "teacher_topk", "be in [0, 64]", teacher_topk)
    require(steps in STEPS, "collect", "steps", f"be one of {', '.join(STEPS)}", steps)
    if entropy_threshold is None:
        return
    rule = "be left out for steps='kl', which asks for none"
    require(steps != "kl", "collect", "entropy_threshold", rule, entropy_threshold)
    rule = "be at least 0 and finite"
    fits = 0 <= entropy_threshold < math.inf
    require(fits, "collect", "entropy_threshold", rule, entropy_threshold)
