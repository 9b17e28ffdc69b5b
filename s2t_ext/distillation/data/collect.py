"""Collecting: roll the student out, have the teacher label every step in one prefill, keep the
steps where they diverge most (paper, section 3.4; design, section 8).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from s2t_ext import ops
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.data.rollouts import RecordedRollouts
from s2t_ext.distillation.groups import Group, Trajectory
from s2t_ext.distillation.packing import PackedModel
from s2t_ext.hf.identity import check_same_tokenizer, describe_base_model, vocabulary_size
from s2t_ext.hf.prompts import chat_prompt
from s2t_ext.ops import SupportKL
from s2t_ext.rollouts import roll_out
from s2t_ext.runs.processes import share_of_this_process
from s2t_ext.runs.prompts import Prompt
from s2t_ext.teachers.base import Teacher, UnlabelledTrajectory, describe_teacher

#: Steps whose vocabulary-wide logits of the student are held at a time.
STEP_ROWS = 128
#: Rollouts of one seed have keys of their own up to this many.
SEED_STEP = 10**6
#: Which steps of a rollout are kept.
STEPS = ("kl", "entropy", "either")


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
        "use_chat_template": use_chat_template,
        **({} if steps == "kl" else {"steps": steps}),  # older collections do not name it
    }
    recorded = None if rollouts_from is None else RecordedRollouts(rollouts_from, settings)
    shards = math.ceil(len(jobs) / batch_size)
    collection = Collection.open_for_writing(output, settings, shards)
    labeller = Labeller(
        model, teacher, k=k, support=support, share=share, steps=steps, blocked=reserved_ids
    )
    hidden = None if progress is None else not progress
    missing = share_of_this_process(collection.missing_shards())
    for index in tqdm(missing, desc="collect", unit="shard", disable=hidden):
        first = index * batch_size
        part = jobs[first : first + batch_size]
        if recorded is not None:
            pairs = [recorded[first + i] for i in range(len(part))]
        else:
            texts = [chat_prompt(tokenizer, p.text) if use_chat_template else p.text for p in part]
            pairs = roll_out(
                model,
                tokenizer,
                texts,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seeds=[SEED_STEP * seed + first + i for i in range(len(part))],
            )
        splits = ["held_out" if p.is_held_out(held_out) else "train" for p in part]
        keys = [str(first + i) for i in range(len(part))]
        records = zip(splits, labeller.label_all(keys, pairs), strict=True)
        collection.write_shard(index, list(records))
    return collection


class Labeller:
    """Turns a rollout into a `Trajectory`: one forward pass of the student, one of the teacher."""

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher,
        *,
        k: int = 16,
        support: int = 64,
        share: float = 0.1,
        steps: str = "kl",
        blocked: Sequence[int] = (),
    ) -> None:
        self.teacher = teacher
        self.k = k
        self.support = support
        self.share = share
        self.steps = steps
        self._packed = PackedModel(model)
        self._device = self._packed.plain.device
        self._blocked = None
        if blocked:
            self._blocked = torch.tensor(list(blocked), dtype=torch.int64, device=self._device)

    def label(self, key: str, prompt: Sequence[int], response: Sequence[int]) -> Trajectory:
        """The labelled trajectory; its groups are the ceil(share * length) steps of highest KL, of
        highest entropy, or both (`collect`'s `steps`).
        """
        return self.label_all([key], [(prompt, response)])[0]

    @torch.no_grad()
    def label_all(
        self, keys: Sequence[str], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[Trajectory]:
        """`label` of several (prompt ids, response ids); the teacher sees them together."""
        proposals, questions = [], []
        for prompt, response in pairs:
            if response:
                ids = torch.tensor([*prompt, *response], dtype=torch.int64, device=self._device)
                proposal = self._propose(ids, len(prompt))
                proposals.append(proposal)
                questions.append(
                    UnlabelledTrajectory(ids, len(prompt), proposal.ids, proposal.logits)
                )
        vocabulary = vocabulary_size(self._packed.plain)
        answers = iter(
            self.teacher.label_trajectories(questions, vocabulary=vocabulary, chunk=STEP_ROWS)
        )
        proposed = iter(proposals)
        trajectories = []
        for key, (prompt, response) in zip(keys, pairs, strict=True):
            labels: tuple[Any, ...] = ((),)
            if response:
                labels = self._labels(next(proposed), next(answers))
            trajectories.append(Trajectory(key, tuple(prompt), tuple(response), *labels))
        return trajectories

    def _labels(
        self, proposal: ops.ProposedCandidates, answer: SupportKL
    ) -> tuple[tuple[Group, ...], tuple[float, ...], tuple[float, ...]]:
        """(groups, divergence of every step, entropy of every step) of a trajectory."""
        kl = answer.kl
        chosen = self._chosen(kl, proposal.support_entropy)
        logprobs = (proposal.logits - proposal.logsumexp[:, None])[:, : self.k].tolist()
        probs = answer.candidate_logprobs[:, : self.k].exp().tolist()
        entropy = _rounded(proposal.support_entropy.tolist())
        kl_list = _rounded(kl.nan_to_num(posinf=1e4).tolist())
        groups = []
        for step in chosen:
            there = [j for j in range(self.k) if int(proposal.ids[step, j]) >= 0]
            groups.append(
                Group(
                    step,
                    tuple(int(proposal.ids[step, j]) for j in there),
                    _rounded(logprobs[step][j] for j in there),
                    _rounded(probs[step][j] for j in there),
                    kl_list[step],
                    entropy[step],
                )
            )
        return tuple(groups), kl_list, entropy

    def _chosen(self, kl: torch.Tensor, entropy: torch.Tensor) -> list[int]:
        """The steps to keep, ascending, of [length] each."""
        count = math.ceil(self.share * kl.shape[0])
        values = {"kl": torch.where(kl.isfinite(), kl, -1.0), "entropy": entropy.to(kl.device)}
        names = tuple(values) if self.steps == "either" else (self.steps,)
        return sorted({i for name in names for i in values[name].topk(count).indices.tolist()})

    def _propose(self, ids: torch.Tensor, first: int) -> ops.ProposedCandidates:
        """The student's support at every response step; [length, support]."""
        hidden = self._packed.plain_hidden_states(ids[None])[0, first - 1 : -1]
        parts = []
        for begin in range(0, hidden.shape[0], STEP_ROWS):
            logits = self._packed.head.logits(hidden[begin : begin + STEP_ROWS])
            parts.append(
                ops.propose_candidates(
                    logits.contiguous(), self.support, self.support, self._blocked
                )
            )
        return ops.ProposedCandidates(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _rounded(values: Any) -> tuple[float, ...]:
    """Six significant digits: below the noise of any dtype a model runs in, and half the disk."""
    return tuple(float(f"{value:.6g}") for value in values)


def _tokenizer_hash(tokenizer: Any) -> str:
    entries = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(entries.encode()).hexdigest()


def _check(
    prompts: Sequence[Any], k: int, support: int, share: float, steps: str, held_out: float
) -> None:
    _require(len(prompts) > 0, "prompts", "hold at least one text", "none")
    _require(2 <= k <= 64, "k", "be in [2, 64]", k)
    _require(k <= support <= 64, "support", f"be in [k, 64] with k = {k}", support)
    _require(0 < share <= 1, "share", "be in (0, 1]", share)
    _require(steps in STEPS, "steps", f"be one of {', '.join(STEPS)}", steps)
    _require(0 <= held_out < 1, "held_out", "be in [0, 1)", held_out)


def _check_rollouts(
    rollouts: int, temperature: float, max_new_tokens: int, batch_size: int
) -> None:
    _require(rollouts >= 1, "rollouts", "be at least 1", rollouts)
    _require(temperature >= 0, "temperature", "be at least 0", temperature)
    several = rollouts == 1 or temperature > 0
    _require(several, "rollouts", "be 1 at temperature 0, where all are alike", rollouts)
    _require(max_new_tokens >= 1, "max_new_tokens", "be at least 1", max_new_tokens)
    _require(batch_size >= 1, "batch_size", "be at least 1", batch_size)


def _require(condition: bool, name: str, rule: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"collect: {name} must {rule}, got {value}")
