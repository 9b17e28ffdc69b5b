"""Key/value cache whose last K entries are alternatives: append K candidates, keep one, in O(1).

A `CandidateLayer` writes into a preallocated buffer and hands out views, so no step copies the
prefix (the stock `DynamicLayer` concatenates, which does). Sliding-window layers keep a few windows
in the buffer and hand out the last one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import Cache, PretrainedConfig

from s2t_ext import ops
from s2t_ext.hf.cache_layers import CacheLayerMixin, DummyLayer, DynamicLayer, layer_kinds

#: A full buffer grows to this multiple of what it needs, so the copies stay O(1) per token.
_GROWTH = 1.5
_MINIMUM_CAPACITY = 64


class CandidateLayer(CacheLayerMixin):
    """One layer's keys and values, [batch, kv_heads, length, head_dim] views of a growing buffer.

    Args:
        sliding_window: Window of a sliding layer in tokens, the token itself included; None attends
            to everything.
        expected_length: Tokens the generation will hold at most, if known; the buffer never grows
            past it without need.
    """

    is_croppable = True

    def __init__(
        self, sliding_window: int | None = None, expected_length: int | None = None
    ) -> None:
        self._length = 0  # tokens seen, dropped ones included
        self._dropped = 0  # tokens no longer in the buffer (sliding layers only)
        self._key_buffer: torch.Tensor | None = None
        self._value_buffer: torch.Tensor | None = None
        super().__init__()
        self.sliding_window = sliding_window
        self.is_sliding = sliding_window is not None
        self.expected_length = expected_length

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Takes dtype, device and shapes from the first entries."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._allocate(key_states, value_states, key_states.shape[-2])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends entries [batch, kv_heads, q, head_dim]; returns what the q queries may attend
        to.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        added = key_states.shape[-2]
        self._make_room(key_states, value_states, added)
        start = self._length - self._dropped
        assert self._key_buffer is not None and self._value_buffer is not None
        self._key_buffer[:, :, start : start + added].copy_(key_states)
        self._value_buffer[:, :, start : start + added].copy_(value_states)
        _, offset = self.get_mask_sizes(added)
        self._length += added
        first, last = offset - self._dropped, self._length - self._dropped
        return self._key_buffer[:, :, first:last], self._value_buffer[:, :, first:last]

    def commit_start(self, k: int) -> int:
        """Buffer index of the first of the last k entries."""
        return self._length - self._dropped - k

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(number of keys the next `query_length` queries see, index of the first of them)."""
        offset = (
            0 if self.sliding_window is None else max(self._length - self.sliding_window + 1, 0)
        )
        return self._length + query_length - offset, offset

    def get_seq_length(self) -> int:
        """Tokens seen so far."""
        return self._length

    def get_max_length(self) -> int:
        """-1: the layer grows."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last -tokens_to_remove entries (0 or negative, as in transformers)."""
        if tokens_to_remove > 0:
            raise ValueError(
                f"CandidateLayer.crop: tokens_to_remove must be at most 0, got {tokens_to_remove}"
            )
        length = max(self._length + tokens_to_remove, 0)
        needed = 0 if self.sliding_window is None else max(length - self.sliding_window + 1, 0)
        if needed < self._dropped:
            raise ValueError(
                "CandidateLayer.crop: tokens_to_remove must leave a full window of "
                f"{self.sliding_window} tokens in the buffer, got {tokens_to_remove}"
            )
        self._length = length

    def reset(self) -> None:
        """Empties the layer and releases its buffers."""
        self._key_buffer = self._value_buffer = None
        self.is_initialized = False
        self._length = self._dropped = 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Takes the rows `beam_idx`; the batch may grow or shrink."""
        if self._length:
            used = self._length - self._dropped
            rows = beam_idx.to(self.device)
            assert self._key_buffer is not None and self._value_buffer is not None
            with _written_later():
                self._key_buffer = self._key_buffer[:, :, :used].index_select(0, rows)
                self._value_buffer = self._value_buffer[:, :, :used].index_select(0, rows)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row `repeats` times."""
        if self._length:
            assert self._key_buffer is not None
            rows = torch.arange(self._key_buffer.shape[0], device=self.device)
            self.reorder_cache(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows `indices` (ids or a bool mask)."""
        if self._length:
            rows = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
            self.reorder_cache(rows)

    # As in the stock layers, whoever assigns other keys and values (a hook that compresses the
    # prompt) decides what the next forward attends to, and how long the layer is.

    @property
    def keys(self) -> torch.Tensor | None:
        """[batch, kv_heads, length, head_dim], a view of the buffer."""
        return self._used(self._key_buffer)

    @keys.setter
    def keys(self, keys: torch.Tensor | None) -> None:
        self._key_buffer = self._adopted(keys)

    @property
    def values(self) -> torch.Tensor | None:
        """[batch, kv_heads, length, head_dim], a view of the buffer."""
        return self._used(self._value_buffer)

    @values.setter
    def values(self, values: torch.Tensor | None) -> None:
        self._value_buffer = self._adopted(values)

    def _used(self, buffer: torch.Tensor | None) -> torch.Tensor | None:
        return None if buffer is None else buffer[:, :, : self._length - self._dropped]

    def _adopted(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        self._length = self._dropped + (0 if tensor is None else tensor.shape[-2])
        return tensor

    def _make_room(self, key_states: torch.Tensor, value_states: torch.Tensor, added: int) -> None:
        assert self._key_buffer is not None and self._value_buffer is not None
        used = self._length - self._dropped
        if used + added <= self._key_buffer.shape[-2]:
            return
        keep = used
        if self.sliding_window is not None:
            keep = min(used, self.sliding_window - 1)
        old_keys, old_values = self._key_buffer, self._value_buffer
        self._allocate(key_states, value_states, keep + added)
        self._key_buffer[:, :, :keep].copy_(old_keys[:, :, used - keep : used])
        self._value_buffer[:, :, :keep].copy_(old_values[:, :, used - keep : used])
        self._dropped += used - keep

    def _allocate(self, key_states: torch.Tensor, value_states: torch.Tensor, needed: int) -> None:
        capacity = max(int(needed * _GROWTH), _MINIMUM_CAPACITY)
        if self.expected_length is not None and self._dropped == 0:
            if needed <= self.expected_length:  # a prompt of embeddings is not counted there
                capacity = min(capacity, self.expected_length)
        shape, size = key_states.shape, value_states.shape[-1]
        with _written_later():
            self._key_buffer = key_states.new_empty((*shape[:2], capacity, shape[-1]))
            self._value_buffer = value_states.new_empty((*shape[:2], capacity, size))


@contextlib.contextmanager
def _written_later() -> Iterator[None]:
    """Tensors made in inference mode cannot be written outside of it, as the next turn may be."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def candidate_cache(config: PretrainedConfig, expected_length: int | None = None) -> Cache:
    """A cache of `CandidateLayer`s for a model whose layers are all full or sliding attention.

    Raises:
        NotImplementedError: naming the layer types that cannot hold alternatives (recurrent,
            chunked, ...).
    """
    kinds = layer_kinds(config)
    refused = sorted({kind for kind, _ in kinds} - {"full_attention", "sliding_attention", "dummy"})
    if refused:
        raise NotImplementedError(
            "candidate_cache: layer types must be full_attention or sliding_attention, got "
            f"{', '.join(refused)}"
        )
    layers = [
        DummyLayer()
        if kind == "dummy"
        else CandidateLayer(option.get("sliding_window"), expected_length)
        for kind, option in kinds
    ]
    return Cache(layers=layers)


def can_commit(cache: Cache) -> bool:
    """Whether the last K entries of every layer can be replaced by one of them."""
    # Offloaded layers leave the device between steps; the commit would find them on the host.
    return not cache.offloading and all(
        isinstance(layer, (CandidateLayer, DummyLayer)) or type(layer) is DynamicLayer
        for layer in cache.layers
    )


def commit_candidates(cache: Cache, slot: torch.Tensor, k: int) -> None:
    """Keeps entry slot[b] of the last k of every row and layer and drops the others; slot is int64
    [batch].

    One launch per group of layers that share a start; the prefix is not touched.
    """
    groups: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    layers = [
        layer
        for layer in cache.layers
        if not isinstance(layer, DummyLayer) and layer.get_seq_length()
    ]
    for layer in layers:
        if isinstance(layer, CandidateLayer):
            start, keys, values = layer.commit_start(k), layer._key_buffer, layer._value_buffer
        else:
            start, keys, values = layer.get_seq_length() - k, layer.keys, layer.values
        assert keys is not None and values is not None
        group = groups.setdefault(start, ([], []))
        group[0].append(keys)
        group[1].append(values)
    for start, (keys_of_group, values_of_group) in groups.items():
        starts = torch.full_like(slot, start)
        ops.commit_candidates(keys_of_group, values_of_group, slot, starts, k)
    for layer in layers:
        layer.crop(-(k - 1))
