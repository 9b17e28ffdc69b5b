"""Texts to padded token ids, with the chat template of the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from s2t_ext.hf.model_state import input_device


def chat_prompt(tokenizer: Any, text: str) -> str:
    """One user turn in the tokenizer's chat template, ready for the answer; the text itself without
    a template.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return text
    turn = [{"role": "user", "content": text}]
    prompt: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    # A template may write the bos token that tokenizing adds again; models know only one.
    bos = getattr(tokenizer, "bos_token", None)
    if bos and prompt.startswith(bos) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        prompt = prompt.removeprefix(bos)
    return prompt


def pad_prompts(tokenizer: Any, texts: Sequence[str], model: Any) -> dict[str, torch.Tensor]:
    """Left-padded `input_ids` and `attention_mask` on the model's device."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    encoded = tokenizer(list(texts), return_tensors="pt", padding=True)
    return {name: encoded[name].to(input_device(model)) for name in ("input_ids", "attention_mask")}
