"""Collecting without a teacher: whole answers that an answer key, or a majority, confirms, to
fine-tune any model of the same tokenizer on (`distill` with objective="tokens" and an sft_weight).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.data.rollouts import Pair, Rollouts, check_rollouts, rollout_source
from s2t_ext.distillation.data.shards import collect_missing, describe_sources, held_out_flags
from s2t_ext.distillation.groups import Trajectory
from s2t_ext.hf.identity import end_token_ids, tokenizer_hash
from s2t_ext.runs.checks import require
from s2t_ext.runs.number_arguments import checked_numbers
from s2t_ext.runs.prompts import Prompt


class AnswerFilter(Protocol):
    """Which answers are worth learning from.

    Attributes:
        name: Stands in the settings of the collection.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, prompts: Sequence[int], texts: Sequence[str]) -> list[bool]:
        """Whether to keep each answer.

        Args:
            prompts: The number of each answer's prompt; all answers to a prompt come in one call.
            texts: The answers.
        """
        ...


@checked_numbers
def collect_answers(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str | Prompt],
    output: str | Path,
    *,
    keep: AnswerFilter | None = None,
    rollouts: int = 1,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    batch_size: int = 8,
    held_out: float = 0.1,
    held_out_by: str = "group",
    use_chat_template: bool = True,
    seed: int = 0,
    rollouts_from: str | Path | None = None,
    engine: Any = None,
    progress: bool | None = None,
) -> Collection:
    """Collects answers without labels; the same arguments again resume a killed run.

    Rejection sampling (Yuan et al., arXiv 2308.01825; Zelikman et al., STaR, NeurIPS 2022): a model
    answers, and of its answers those that `keep` approves of stay. The model may be the student
    itself, or a larger one whose answers the student is to learn from.

    Args:
        model: Answers the prompts.
        tokenizer: Its tokenizer, and that of every model that is trained on the collection.
        prompts: Texts, or `Prompt` objects whose group decides the split.
        output: Folder of the collection.
        keep: Which answers stay, of those that ended by themselves; None keeps them all.
        rollouts: Answers per prompt; 1 if they are greedy.
        temperature: Of sampling; 0 decodes greedily.
        max_new_tokens: Length of an answer, tokens; one that is cut off there is not kept.
        batch_size: Answers at a time, a multiple of `rollouts`; a batch is a shard.
        held_out: Share of the prompts that is set aside (see `collect`).
        held_out_by: "group" or "prompt" (see `collect`).
        use_chat_template: Make each prompt a user turn.
        seed: Key of the sampling.
        rollouts_from: A `.jsonl` file of `{"prompt": [ids], "response": [ids]}`, a line for each
            answer, made by any program, instead of decoding.
        engine: A `vllm.LLM` of the model, which decodes instead.
        progress: Show a progress bar; None shows it on a terminal.

    Raises:
        ValueError: for options out of range, or a folder with a collection of other settings.
        FileNotFoundError: if `rollouts_from` is no file.
    """
    _check(prompts, rollouts, batch_size)
    check_rollouts(rollouts, temperature, max_new_tokens, batch_size)
    numbers = [i for i in range(len(prompts)) for _ in range(rollouts)]
    given = [p if isinstance(p, Prompt) else Prompt(p) for p in prompts]
    jobs = [given[i] for i in numbers]
    settings = {
        **describe_sources(model, tokenizer, None, jobs),
        **dict(prompts=len(prompts), rollouts=rollouts, temperature=temperature, seed=seed),
        **dict(max_new_tokens=max_new_tokens, batch_size=batch_size, held_out=held_out),
        **dict(held_out_by=held_out_by, use_chat_template=use_chat_template),
        "keep": "all" if keep is None else keep.name,
    }
    flags = held_out_flags(jobs, held_out, held_out_by)
    source = rollout_source(
        model, tokenizer, [p.text for p in jobs], settings, path=rollouts_from, engine=engine
    )
    settings |= source.origin
    collection = Collection.open_for_writing(output, settings, math.ceil(len(jobs) / batch_size))
    ends = end_token_ids(getattr(model, "generation_config", None))
    chosen = _Chosen(source, tokenizer, numbers, keep, ends)
    collect_missing(collection, flags, batch_size, chosen.write, progress)
    return collection


def check_answers_tokenizer(collection: Collection, tokenizer: Any) -> None:
    """Raises ValueError for a collection without labels whose tokens are another tokenizer's."""
    settings = collection.manifest["settings"]
    if settings["teacher"] is None and settings["tokenizer_sha256"] != tokenizer_hash(tokenizer):
        raise ValueError(
            "distill: collection must hold answers in the model's own tokens, got another "
            f"tokenizer's in {collection.folder}"
        )


class _Chosen:
    """Writes the answers of a shard that stay."""

    def __init__(
        self,
        source: Rollouts,
        tokenizer: Any,
        prompts: Sequence[int],
        keep: AnswerFilter | None,
        ends: Sequence[int],
    ) -> None:
        self._source, self._tokenizer, self._prompts = source, tokenizer, prompts
        self._keep, self._ends = keep, set(ends)

    def write(
        self, collection: Collection, index: int, numbers: Sequence[int], splits: Sequence[str]
    ) -> None:
        """One shard; an empty one where nothing stays."""
        pairs = self._source.pairs(numbers)
        stays = self._stays([self._prompts[n] for n in numbers], pairs)
        records = [
            (split, Trajectory(str(number), tuple(prompt), tuple(response), ()))
            for number, split, (prompt, response), yes in zip(
                numbers, splits, pairs, stays, strict=True
            )
            if yes
        ]
        collection.write_shard(index, records)

    def _stays(self, prompts: Sequence[int], pairs: Sequence[Pair]) -> list[bool]:
        ended = [bool(response) and response[-1] in self._ends for _, response in pairs]
        if self._keep is None:
            return ended
        responses = [response for _, response in pairs]
        texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        approved = self._keep(prompts, texts)
        return [yes and there for yes, there in zip(approved, ended, strict=True)]


def _check(prompts: Sequence[Any], rollouts: int, batch_size: int) -> None:
    require(len(prompts) > 0, "collect_answers", "prompts", "hold at least one text", "none")
    rule = f"be a multiple of rollouts ({rollouts}), which are judged together"
    whole = rollouts < 1 or batch_size % rollouts == 0
    require(whole, "collect_answers", "batch_size", rule, batch_size)
