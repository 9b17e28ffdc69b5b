"""The student's state: tokens in, logits of the next step out, by the forwards transformers itself
would run.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from s2t_ext.decoding.forward_outputs import ForwardOutputs
from s2t_ext.decoding.record import DecodingRecord
from s2t_ext.decoding.steps.candidate_step import Committed
from s2t_ext.hf.cache_argument import cache_name
from s2t_ext.hf.cache_layers import StaticLayer
from s2t_ext.hf.candidate_cache import can_commit, candidate_cache
from s2t_ext.hf.context import CandidateContext, cached_tokens
from s2t_ext.hf.generate_internals import (
    GenerateCall,
    compile_options,
    new_static_cache,
    prefill,
    update_model_kwargs,
)
from s2t_ext.hf.logits_head import HeadTrace, LogitsHead


class Student:
    """Prefill and one-token forwards, with the bookkeeping of mask, positions and cache.

    Args:
        call: What the caller of `generate` gave.
        model_kwargs: What `generate` prepared for the model (mask, positions, cache, embeddings).
        record: Counts forward passes.
        head: Where hidden states are to be kept for a learned trigger, else None.

    Attributes:
        logits: [batch, V] after the last token.
        hidden: [batch, D] or None.
        outputs: Attentions and hidden states of the forwards, where they are asked for.
    """

    logits: torch.Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        call: GenerateCall,
        record: DecodingRecord,
        head: LogitsHead | None = None,
    ) -> None:
        self.model = model
        self.generation_config = generation_config
        self.model_kwargs = model_kwargs
        self.call = call
        self.record = record
        self.head = head
        self.hidden: torch.Tensor | None = None
        self.outputs = ForwardOutputs(generation_config)
        self._forward_call: Any = model.__call__
        self._compile_config: Any = None
        self._padded = True
        #: What the last choice has committed, as long as it ends with the last token.
        self._ahead: Committed | None = None

    def use_candidate_cache(self, k: int) -> None:
        """Swaps the empty default cache for one that can hold k alternatives; a user's own cache
        stays.
        """
        name = cache_name(self.model_kwargs)
        if self._is_default_cache(self.model_kwargs.get(name)):
            config = self.model.config.get_text_config(decoder=True)
            length = self._max_length
            self.model_kwargs[name] = candidate_cache(config, length + k if length else None)

    def _is_default_cache(self, cache: Any) -> bool:
        """Whether it is the empty one `generate` made because the user asked for nothing in
        particular.
        """
        return (
            type(cache) is DynamicCache
            and cache is not self.call.cache
            and not cache.offloading
            and cache.get_seq_length() == 0
        )

    def make_room_for_last_token(self, input_ids: torch.Tensor, k: int) -> None:
        """Static caches end where transformers stops, one token before the end; a choice in the
        last step needs that place too, and one that transformers makes gets room for all K.

        Raises:
            ValueError: if the cache is the user's own.
        """
        name = cache_name(self.model_kwargs)
        cache = self.model_kwargs.get(name)
        layers = getattr(cache, "layers", ())
        room = [x.max_cache_len for x in layers if isinstance(x, StaticLayer) and not x.is_sliding]
        config = self.generation_config
        if not room:
            return
        new_tokens = self._max_length - input_ids.shape[1]
        needed = self._prompt_length(input_ids, cached_tokens(cache)) + new_tokens
        if min(room) >= needed:
            return
        if cache is self.call.cache:
            raise ValueError(
                f"generate: {name} must have room for {needed} tokens (a choice in the "
                f"last step looks one token ahead), got a {type(cache).__name__} for {min(room)}, "
                f"{needed - min(room)} too few"
            )
        self.model_kwargs[name] = new_static_cache(self.model, config, needed + k - 1)

    @property
    def _max_length(self) -> int:
        """Tokens of a whole sequence at most, 0 if not limited; callers also give 12.0."""
        return math.ceil(self.generation_config.max_length or 0)

    def _prompt_length(self, input_ids: torch.Tensor, cached: int) -> int:
        """Tokens the cache holds after the prefill."""
        mask, embeds = (self.model_kwargs.get(n) for n in ("attention_mask", "inputs_embeds"))
        if mask is not None:
            return int(mask.shape[1])  # covers what is cached too
        if embeds is not None:
            return cached + int(embeds.shape[1])
        # With a cache, either the whole sequence or only what is new.
        return self.call.mask_length or input_ids.shape[1]

    def prefill(self, input_ids: torch.Tensor) -> None:
        """Takes the prompt (int64 [batch, length], or the embeddings in `model_kwargs`) through the
        model.
        """
        model, config = self.model, self.generation_config
        before = cached_tokens(self.cache)
        mask = self.model_kwargs.get("attention_mask")
        self._padded = mask is not None and not bool(mask.all())  # one read of the device
        with self._tracing() as trace:
            outputs = prefill(model, input_ids, config, self.model_kwargs)
        self._take(outputs, trace)
        self._count_prefill(input_ids, cached_tokens(self.cache) - before)
        self._compile_config = compile_options(model, config, self.model_kwargs)
        if self._compile_config is not None:
            self._forward_call = model.get_compiled_call(config.compile_config)

    def _count_prefill(self, input_ids: torch.Tensor, cached: int) -> None:
        """Only what a given cache did not hold was computed, chunk by chunk if asked for."""
        prompt = self.model_kwargs.get("inputs_embeds")
        batch, length = (input_ids if prompt is None else prompt).shape[:2]
        if cached > 0:
            length = cached
        chunk = self.generation_config.prefill_chunk_size or length
        self.record.count_forward(batch * length, -(-length // chunk))

    def forward(self, input_ids: torch.Tensor) -> None:
        """Takes the last token of `input_ids` through the model; without a cache, all of them."""
        cached = self.model_kwargs["use_cache"]
        inputs = self.model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=1 if cached else None, **self.model_kwargs
        )
        with self._tracing() as trace:
            outputs = self._forward_call(**inputs, return_dict=True)
        self._take(outputs, trace)
        self.record.count_forward(input_ids.shape[0] if cached else input_ids.numel())

    @property
    def has_next_logits(self) -> bool:
        """Whether `logits` are already those after the last token."""
        return self._ahead is not None

    def advance(self, committed: Committed | None) -> None:
        """Called once per step, after its tokens are decided.

        Args:
            committed: The state that a choice has taken the tokens to; None if no choice was made.
                Without logits, the student has not seen the tokens.
        """
        self._ahead = None
        if committed is not None and committed.logits is not None:
            cache = committed.cache
            self._update(
                _CacheOnly({} if cache is None else {cache_name(self.model_kwargs): cache})
            )
            self.outputs.add(committed.outputs)
            self.logits, self.hidden = committed.logits, committed.hidden
            self._ahead = committed

    def context(self, input_ids: torch.Tensor) -> CandidateContext:
        """The state a candidate forward starts from."""
        self._ahead = None  # what it can undo keeps the cache of the step before alive
        return CandidateContext(
            cache=self.cache,
            input_ids=input_ids,
            num_pending=0,
            attention_mask=self.model_kwargs.get("attention_mask"),
            position_ids=self.model_kwargs.get("position_ids"),
            model_kwargs=self.model_kwargs,
            compile_config=self._compile_config,
            padded=self._padded,
        )

    @property
    def cache(self) -> Any:
        """The model's cache, under whatever name the model has for it."""
        return self.model_kwargs.get(cache_name(self.model_kwargs))

    def final_cache(self) -> Any:
        """The cache as transformers returns it: without the last token, which a candidate step has
        already added.
        """
        cache = self.cache
        if self._ahead is not None and cache is not None:
            if self._ahead.undo is not None:
                self._ahead.undo()
            elif can_commit(cache) and cached_tokens(cache):
                cache.crop(-1)
            self._ahead = None
        return cache

    def _tracing(self) -> contextlib.AbstractContextManager[HeadTrace | None]:
        return contextlib.nullcontext() if self.head is None else self.head.tracing()

    def _take(self, outputs: Any, trace: HeadTrace | None) -> None:
        self._update(outputs)
        self.outputs.add(outputs)
        self.logits = outputs.logits[:, -1]
        self.hidden = None if trace is None else trace.hidden[:, -1]
        self._ahead = None

    def _update(self, outputs: Any) -> None:
        self.model_kwargs = update_model_kwargs(self.model, outputs, self.model_kwargs)


class _CacheOnly(dict[str, Any]):
    """What `update_model_kwargs` reads of a model's outputs."""

    __getattr__ = dict.__getitem__
