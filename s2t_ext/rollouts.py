"""Prompts in, tokens and the record out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput
from s2t_ext.generation import generate
from s2t_ext.hf.prompts import chat_prompt, pad_prompts
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.triggers import TRIGGERS

#: Decoding as the model does by itself.
PLAIN = S2TConfig(trigger="never", proposer="base")
#: Above every finite divergence, in float32.
_LARGE = 3e38


@dataclass(frozen=True)
class Rollouts:
    """A batch of answers.

    Attributes:
        prompts: Ids of each text, without padding.
        record: What was decoded and how; its rows are those of the texts, `paths` of them each.
        seconds: Wall-clock time of the decoding.
    """

    prompts: list[list[int]]
    record: DecodingRecord
    seconds: float

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids) of each text with one path; a response ends with its
        end-of-sequence token, if it got that far.
        """
        rows = zip(self.prompts, self.record.rows, strict=True)
        return [(prompt, list(row.tokens)) for prompt, row in rows]


def roll_out(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    s2t: S2TConfig = PLAIN,
    temperature: float = 0.0,
    top_p: float = 1.0,
    paths: int = 1,
    seeds: Sequence[int] | None = None,
    use_chat_template: bool = False,
    **options: Any,
) -> Rollouts:
    """Decodes a batch of texts.

    Args:
        model: The student, wrapped by PEFT or not.
        tokenizer: Its tokenizer.
        texts: What is answered.
        max_new_tokens: Length of a response at most.
        s2t: How it is decoded; the default is the model's own way.
        temperature: Of sampling over the whole vocabulary; 0 decodes greedily.
        top_p: Of sampling.
        paths: Responses per text; more than one only where they are sampled.
        seeds: The key of each response's random numbers, `paths` for each text in turn (see
            `s2t_ext.runs.seeds`); None takes one for all, for what draws no numbers.
        use_chat_template: Make each text a user turn.
        options: Further arguments of `s2t_ext.generate` and `model.generate`.

    Returns:
        The prompts' ids and the record.
    """
    if use_chat_template:
        texts = [chat_prompt(tokenizer, text) for text in texts]
    inputs = pad_prompts(tokenizer, texts, unwrap_model(model))
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
        sampling |= {"num_return_sequences": paths} if paths > 1 else {}
    start = time.perf_counter()
    output = generate(
        model,
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        s2t=s2t,
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **{"seed": 0 if seeds is None else list(seeds), **sampling, **options},
    )
    seconds = time.perf_counter() - start
    assert isinstance(output, S2TGenerateOutput) and output.s2t is not None
    masks = inputs["attention_mask"].bool()
    prompts = [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], masks, strict=True)]
    return Rollouts(prompts, output.s2t, seconds)


def trigger_statistics(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    config: S2TConfig,
    *,
    batch_size: int,
    progress: bool | None = None,
    **options: Any,
) -> list[float]:
    """The statistic of a trigger at every step of the model's own rollouts but those of the warmup.

    Args:
        model: The student, wrapped by PEFT or not.
        tokenizer: Its tokenizer.
        texts: What is answered.
        config: Names the trigger, the warmup and the proposer; nothing is chosen.
        batch_size: Rollouts at a time.
        progress: Show a progress bar; None shows it on a terminal.
        options: Of `roll_out`.
    """
    kind = TRIGGERS[config.trigger]
    # A trigger that cannot fire does not ask its teacher.
    never = _LARGE if kind.reads_teacher else kind.unreachable
    config = replace(config, threshold=never)
    hidden = None if progress is None else not progress
    statistics: list[float] = []
    for start in tqdm(range(0, len(texts), batch_size), desc="calibrate", disable=hidden):
        some = texts[start : start + batch_size]
        rollouts = roll_out(model, tokenizer, some, s2t=config, **options)
        for row in rollouts.record.rows:
            statistics += row.statistics[config.warmup_steps :]
    return statistics
