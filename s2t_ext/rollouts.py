"""Prompts in, tokens and the record out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.generation import generate
from s2t_ext.hf.prompts import pad_prompts


def roll_out(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    seeds: Sequence[int],
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids) of each text; a response ends with its end-of-sequence token, if
    it got that far.

    Args:
        temperature: Of sampling over the whole vocabulary; 0 decodes greedily.
        max_new_tokens: Length of a response at most.
        seeds: One per text, its key of the sampling.
    """
    inputs = pad_prompts(tokenizer, texts, model)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = generate(
        model,
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        s2t=S2TConfig(trigger="never"),
        seed=list(seeds),
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **sampling,
    )
    assert not isinstance(output, torch.Tensor) and output.s2t is not None
    pairs = []
    rows = zip(inputs["input_ids"], inputs["attention_mask"], output.s2t.rows, strict=True)
    for ids, mask, row in rows:
        pairs.append((ids[mask.bool()].tolist(), list(row.tokens)))
    return pairs
