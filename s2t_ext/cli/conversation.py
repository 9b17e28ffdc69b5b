"""A conversation of several turns with a model, whose cache is kept from one turn to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from transformers import DynamicCache

from s2t_ext.config import S2TConfig
from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput, StepEvent
from s2t_ext.generation import generate
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT, cache_of
from s2t_ext.hf.prompts import pad_prompts, render_chat
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher


class Conversation:
    """Turns of a user and a model, in the tokenizer's chat template.

    Args:
        model: A causal language model of transformers.
        tokenizer: Its tokenizer, with a chat template.
        configs: The ways to decode, by the names of `mode`.
        mode: The way to begin with.
        selector: For the ways that need one.
        teacher: For the ways that need one.
        system: Instructions before the first turn.
        max_new_tokens: Length of an answer, tokens.

    Attributes:
        mode: How the next answer is decoded; any of `configs`.
        turns: What was said: `role` and `content`.
        reused: Tokens of the last prompt whose keys and values the cache still held.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        configs: dict[str, S2TConfig],
        mode: str,
        *,
        selector: Selector | None = None,
        teacher: Teacher | None = None,
        system: str | None = None,
        max_new_tokens: int = 512,
    ) -> None:
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError("chat: the model's tokenizer must have a chat template, got none")
        self.model = model
        self.tokenizer = tokenizer
        self.configs = configs
        self.mode = mode
        self.selector = selector
        self.teacher = teacher
        self.max_new_tokens = max_new_tokens
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.reset()

    def reset(self) -> None:
        """Forgets what was said."""
        self.turns: list[dict[str, str]] = list(self._first)
        self.reused = 0
        self._forget()

    def _forget(self) -> None:
        self._cache = DynamicCache(config=self.model.config)
        self._cached: list[int] = []  # the ids whose keys and values the cache holds

    def answer(
        self, text: str, on_step: Callable[[StepEvent], None] | None = None
    ) -> DecodingRecord:
        """Says `text` and decodes the answer; a turn that is broken off leaves no trace.

        Args:
            text: The user's turn.
            on_step: Called with a `StepEvent` after every step.

        Returns:
            The record of the answer, which is the last of `turns`.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        inputs = pad_prompts(self.tokenizer, [render_chat(self.tokenizer, turns)], self.model)
        ids = inputs["input_ids"]
        cache = self._cache_for(ids[0].tolist())
        self._forget()  # until the answer is whole
        config = self.configs[self.mode]
        output = generate(
            self.model,
            ids,
            attention_mask=inputs["attention_mask"],
            s2t=config,
            selector=self.selector if config.select == "local" else None,
            teacher=None if config.select == "local" else self.teacher,
            on_step=on_step,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            **{CACHE_ARGUMENT: cache},
        )
        assert isinstance(output, S2TGenerateOutput) and output.s2t is not None
        held = cache_of(output)
        if isinstance(held, DynamicCache):
            self._cache = held
            self._cached = output.sequences[0, : held.get_seq_length()].tolist()
        new = output.sequences[0, ids.shape[1] :]
        content = self.tokenizer.decode(new, skip_special_tokens=True)
        self.turns = [*turns, {"role": "assistant", "content": content}]
        return output.s2t

    def _cache_for(self, ids: list[int]) -> DynamicCache:
        """The cache with the part that a prompt begins with, at least one token short of it."""
        shared = 0
        for ours, theirs in zip(self._cached, ids[:-1], strict=False):
            if ours != theirs:
                break
            shared += 1
        if shared < len(self._cached) and any(
            getattr(layer, "is_sliding", False) for layer in self._cache.layers
        ):
            self._forget()  # a window has dropped what would have to come back
            shared = 0
        if shared == 0:
            self._forget()
        elif shared < len(self._cached):
            self._cache.crop(shared - len(self._cached))  # a negative number: so many fewer
        self.reused = shared
        return self._cache


def ways_to_decode(local: S2TConfig | None, teacher: bool) -> dict[str, S2TConfig]:
    """The names a user switches between: greedy, local with a selector, s2t with a teacher.

    Args:
        local: The selector's options, if there is a selector.
        teacher: Whether there is a teacher.
    """
    ways = {"greedy": S2TConfig(trigger="never")}
    if local is not None:
        ways["local"] = replace(local, select="local")
    if teacher:
        ways["s2t"] = S2TConfig(select="teacher", trigger="kl", threshold=0.88)
    return ways
