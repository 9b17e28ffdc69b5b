"""Candidates as extra batch rows: works for every causal model, at the price of copying the
triggered rows' cache K times, or, in a generation without a cache, of computing their prefix K
times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from s2t_ext.decoding.forward_outputs import given_outputs, outputs_of_rows
from s2t_ext.decoding.steps.candidate_step import Committed
from s2t_ext.hf.cache_argument import ALL_CACHE_NAMES, cache_name, cache_of
from s2t_ext.hf.candidate_cache import can_commit
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.logits_head import LogitsHead
from s2t_ext.hf.row_adapters import RowAdapters


class ExpandStep:
    """A candidate forward by batch expansion: triggered rows K times, the others once, one ordinary
    forward; of one token per row, or of the whole sequences where there is no cache.
    """

    mode = "expand"
    wants_candidate_cache = False

    def __init__(self, head: LogitsHead) -> None:
        self.model = head.model
        self.head = head
        self._adapters = RowAdapters(head.model)

    def fits(self, context: CandidateContext, k: int) -> bool:
        """See `CandidateStep.fits`: it needs no room, and recomputes what the model recomputes."""
        return True

    def forward(
        self, context: CandidateContext, candidates: torch.Tensor, needed: torch.Tensor
    ) -> ExpandedForward:
        """See `CandidateStep.forward`; rows that need no choice are not expanded."""
        batch, k = candidates.shape
        cache = self._catch_up(context)
        copies = torch.where(needed, k, 1)
        rows = torch.repeat_interleave(torch.arange(batch, device=copies.device), copies)
        starts = copies.cumsum(0) - copies
        slots = torch.arange(rows.shape[0], device=rows.device) - starts[rows]
        undo = None if cache is None or can_commit(cache) else _restorer(cache)
        if cache is not None:
            cache.reorder_cache(rows)
        ids = torch.cat([context.input_ids[rows], candidates[rows, slots][:, None]], dim=1)
        outputs, hidden = self._run(
            ids,
            None if cache is None else 1,
            cache,
            None if context.attention_mask is None else context.attention_mask[rows],
            _take_rows(context.position_ids, rows, batch),
            _of_rows(context.model_kwargs, rows, batch),
            types={n: types[rows] for n, types in _token_types(context).items()},
            rows=rows,
        )
        spread = (starts[:, None] + torch.arange(k, device=starts.device)).clamp(
            max=rows.shape[0] - 1
        )
        places = torch.where(needed[:, None], spread, starts[:, None])
        return ExpandedForward(
            hidden=hidden[:, -1][places],
            tokens=ids.numel() if cache is None else rows.shape[0] + context.pending.numel(),
            passes=1 + (cache is not None and context.num_pending > 0),
            cache=None if cache is None else cache_of(outputs, cache),
            starts=starts,
            places=places,
            logits=outputs.logits[:, -1],
            outputs=given_outputs(outputs, context.model_kwargs),
            undo=undo,
        )

    def _catch_up(self, context: CandidateContext) -> Cache | None:
        """Takes the pending tokens through the model first; they cannot share the expanded
        forward.
        """
        if context.cache is None or not context.num_pending:
            return context.cache
        mask, positions = context.attention_mask, context.position_ids
        outputs, _ = self._run(
            context.input_ids,
            context.num_pending,
            context.cache,
            None if mask is None else mask[:, :-1],
            None if positions is None else positions[..., :-1],
            context.model_kwargs,
            {
                n: types[:, : context.input_ids.shape[1]]
                for n, types in _token_types(context).items()
            },
            # Some models read the mask of the prompt only then.
            is_first_iteration=context.num_pending == context.input_ids.shape[1],
        )
        caught_up: Cache = cache_of(outputs, context.cache)
        return caught_up

    def _run(
        self,
        input_ids: torch.Tensor,
        new_tokens: int | None,
        cache: Cache | None,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        model_kwargs: dict[str, Any],
        types: dict[str, torch.Tensor],
        is_first_iteration: bool = False,
        rows: torch.Tensor | None = None,
    ) -> tuple[Any, torch.Tensor]:
        options = {k: v for k, v in model_kwargs.items() if k not in _CARRIED_ELSEWHERE}
        inputs = self.model.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=new_tokens,
            is_first_iteration=is_first_iteration,
            **({} if cache is None else {cache_name(model_kwargs): cache}),
            attention_mask=mask,
            **({} if positions is None else {"position_ids": positions}),
            **types,
            **options,
        )
        adapters = contextlib.nullcontext() if rows is None else self._adapters.of(rows)
        with adapters, self.head.tracing() as trace:
            outputs = self.model(**inputs, return_dict=True)
        return outputs, trace.hidden


@dataclass(frozen=True)
class ExpandedForward:
    """See `CandidateForward`.

    Attributes:
        hidden: [batch, K, D].
        tokens: Through the model.
        passes: Forward passes, the one for pending tokens included.
        cache: Its rows are the expanded ones; None where there is none.
        starts: int64 [batch], the first expanded row of each.
        places: int64 [batch, K], the expanded row of each candidate.
        logits: [expanded rows, V].
        outputs: Attentions and hidden states, by name, where they are asked for.
        undo: See `Committed`.
    """

    hidden: torch.Tensor
    tokens: int
    passes: int
    cache: Cache | None
    starts: torch.Tensor
    places: torch.Tensor
    logits: torch.Tensor
    outputs: dict[str, Any]
    undo: Callable[[], None] | None

    def of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        """See `CandidateForward.of_candidates`."""
        return states[:, -1][self.places]

    def commit(self, slot: torch.Tensor, *, need_logits: bool = True) -> Committed:
        """See `CandidateForward.commit`; the winners' logits are those of their own rows."""
        winners = self.starts + slot
        if self.cache is not None:
            self.cache.reorder_cache(winners)
        hidden = self.hidden[torch.arange(slot.shape[0], device=slot.device), slot]
        logits = self.logits[winners] if need_logits else None
        outputs = outputs_of_rows(self.outputs, winners)
        return Committed(self.cache, logits, hidden, self.undo, outputs)


def _restorer(cache: Cache) -> Callable[[], None]:
    """A function that puts the layers back as they are now, for caches that cannot be cropped.

    Reordering gives a layer new tensors, so keeping the old ones is enough; only counters are
    written in place.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return dict(value)
        if isinstance(value, torch.Tensor) and value.dim() == 0:
            return value.clone()
        return value

    layers = list(cache.layers)
    states = [{name: copied(value) for name, value in vars(layer).items()} for layer in layers]

    def restore() -> None:
        cache.layers = layers
        for layer, state in zip(layers, states, strict=True):
            vars(layer).update(state)

    return restore


#: Text or image, of every token of every row; a mask may be made of them.
_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
_CARRIED_ELSEWHERE = {
    "attention_mask",
    "position_ids",
    "inputs_embeds",
    *_TOKEN_TYPES,
    *ALL_CACHE_NAMES,
}


#: Tensors among a model's arguments that are not one entry per row.
_OF_THE_CALL = {"cache_position", "logits_to_keep"}


def _of_rows(model_kwargs: dict[str, Any], rows: torch.Tensor, batch: int) -> dict[str, Any]:
    """The arguments for the rows `rows`. A tensor has one entry per row, which is what transformers
    assumes too when it repeats the inputs of a call.
    """

    def of_rows(name: str, value: Any) -> Any:
        if name in _CARRIED_ELSEWHERE or name in _OF_THE_CALL:
            return value
        is_per_row = isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch
        return value[rows.to(value.device)] if is_per_row else value

    return {name: of_rows(name, value) for name, value in model_kwargs.items()}


def _token_types(context: CandidateContext) -> dict[str, torch.Tensor]:
    given = context.model_kwargs
    return {name: given[name] for name in _TOKEN_TYPES if given.get(name) is not None}


def _take_rows(tensor: torch.Tensor | None, rows: torch.Tensor, batch: int) -> torch.Tensor | None:
    return None if tensor is None else tensor.expand(*tensor.shape[:-2], batch, -1)[..., rows, :]
