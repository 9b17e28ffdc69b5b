"""Texts to padded token ids, with the chat template of the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from s2t_ext.hf.model_state import input_device


def chat_prompt(tokenizer: Any, text: str, system: str | None = None) -> str:
    """One user turn in the tokenizer's chat template, ready for the answer; the text itself without
    a template.

    Args:
        tokenizer: With a `chat_template` or without.
        text: What the user says.
        system: Instructions before it.

    Raises:
        ValueError: if the template refuses the conversation, or there is none for `system`.
    """
    turns = [{"role": "user", "content": text}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    if getattr(tokenizer, "chat_template", None) is None:
        if system is not None:
            raise ValueError(
                "chat_prompt: system must be None for a tokenizer without chat template, got a text"
            )
        return text
    return render_chat(tokenizer, turns)


def render_chat(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> str:
    """A conversation in the tokenizer's chat template, ready for the next answer.

    Args:
        tokenizer: With a `chat_template`.
        turns: `role` (system, user or assistant) and `content` of each turn.

    Raises:
        ValueError: if the template refuses the conversation, as some do for a system turn.
    """
    try:
        prompt: str = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise ValueError(
            f"chat_prompt: the tokenizer's chat template must take turns of {roles}, got "
            f"{type(error).__name__}: {error}"
        ) from error
    # A template may write the bos token that tokenizing adds again; models know only one.
    bos = getattr(tokenizer, "bos_token", None)
    if bos and prompt.startswith(bos) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        prompt = prompt.removeprefix(bos)
    return prompt


def prompt_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without padding.

    Raises:
        ValueError: for a text without a single token.
    """
    rows: list[list[int]] = tokenizer(list(texts))["input_ids"]
    for number, row in enumerate(rows):
        if len(row) == 0:
            raise ValueError(
                f"pad_prompts: every prompt must have at least one token, got {texts[number]!r} "
                f"as number {number}"
            )
    return rows


def pad_prompts(tokenizer: Any, texts: Sequence[str], model: Any) -> dict[str, torch.Tensor]:
    """Left-padded `input_ids` and `attention_mask` on the model's device.

    The tokenizer keeps its settings, and needs no padding token: what stands in the padding is
    masked.

    Raises:
        ValueError: for a text without a single token.
    """
    rows = prompt_ids(tokenizer, texts)
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    padding = next(token for token in known if token is not None)
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), padding, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, length - len(row) :] = torch.tensor(row)
        mask[number, length - len(row) :] = 1
    device = input_device(model)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
