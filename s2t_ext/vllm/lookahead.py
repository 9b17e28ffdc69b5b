"""Look-ahead: candidates as one more ordinary decode batch over cache blocks of their own.

Every candidate is a row of one token. Its block table is that of its request with the last block
replaced by a scratch block, into which that last block is copied. So the attention backends, the
scheduler and the prefix cache see nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import (
    AttentionSpec,
    KVCacheConfig,
    KVCacheTensor,
    UniformTypeKVCacheSpecs,
)

from s2t_ext import ops
from s2t_ext.ops.reference.copy_blocks import has_gapless_blocks
from s2t_ext.vllm.statistics import Statistics


def with_more_blocks(config: KVCacheConfig, extra: int) -> KVCacheConfig:
    """The same cache with `extra` blocks at its end, which the scheduler does not know.

    Raises:
        ValueError: if a layer keeps something else than keys and values per token.
    """
    for group in config.kv_cache_groups:
        spec = group.kv_cache_spec
        specs = (
            spec.kv_cache_specs.values() if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]
        )
        for each in specs:
            if not isinstance(each, AttentionSpec):
                raise ValueError(
                    "s2t_ext.vllm: the model must keep keys and values per token in every layer "
                    f"(no recurrent state), got {type(each).__name__}"
                )
    blocks: int = config.num_blocks

    def longer(size: int) -> int:
        return size // blocks * (blocks + extra)

    def enlarge(tensor: KVCacheTensor) -> KVCacheTensor:
        if tensor.block_stride * blocks == tensor.size:  # a block holds all layers
            return replace(tensor, size=longer(tensor.size))
        return replace(
            tensor,
            size=longer(tensor.size),
            layer_stride=longer(tensor.layer_stride),
            offset=longer(tensor.offset),
        )

    tensors = [enlarge(tensor) for tensor in config.kv_cache_tensors]
    return replace(config, num_blocks=blocks + extra, kv_cache_tensors=tensors)


class Lookahead:
    """The scratch blocks of a model runner, and forward passes over them.

    Args:
        runner: vLLM's model runner (V1 or V2), after `initialize_kv_cache` with more blocks.
        first_block: The first block the scheduler does not know.
        capacity: Candidates per forward pass; there is one scratch block per candidate and group.
        statistics: Counts the forward passes and their rows.
    """

    def __init__(
        self, runner: Any, first_block: int, capacity: int, statistics: Statistics
    ) -> None:
        self.runner = runner
        self.capacity = capacity
        self.statistics = statistics
        groups = runner.kv_cache_config.kv_cache_groups
        self.block_sizes = [group.kv_cache_spec.block_size for group in groups]
        # Groups may lay their layers over the same memory, so no block is shared between them.
        self.scratch = [
            torch.arange(capacity, device=runner.device) + first_block + g * capacity
            for g in range(len(groups))
        ]
        self._caches = [self._caches_of(group.layer_names) for group in groups]

    def _caches_of(self, layer_names: Sequence[str]) -> list[torch.Tensor]:
        """The caches of a group, [blocks, ...] in the scheduler's blocks, each once.

        vLLM's are views [blocks, heads, tokens, ...] of several layouts. Where heads lie outside
        blocks, every head counts as a cache of its own, so that a block is a run of memory.
        """
        layers = self.runner.vllm_config.compilation_config.static_forward_context
        blocks = self.runner.kv_cache_config.num_blocks
        caches = {}
        for name in layer_names:
            cache = layers[name].kv_cache
            caches[cache.data_ptr()] = cache.unflatten(0, (blocks, -1))
        return [
            part
            for cache in caches.values()
            for part in ([cache] if has_gapless_blocks(cache) else cache.unbind(2))
        ]

    def copy_blocks(self, group: int, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies blocks of one group in all its layers; both int64 [n]."""
        ops.copy_blocks(self._caches[group], source, target)

    def forward(
        self,
        tables: Sequence[torch.Tensor],
        rows: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
        longest: int,
    ) -> torch.Tensor:
        """The states after prefix + candidate.

        Args:
            tables: Per group the block tables of the requests, int32 [requests, blocks].
            rows: Which row of the tables is a candidate's request, int64 [n].
            positions: Where the candidate stands, that is the tokens before it, int64 [n].
            tokens: The candidates, int64 [n].
            longest: At least the largest position, for the attention backends.

        Returns:
            What the selector scores, [n, hidden size].
        """
        parts = (part.split(self.capacity) for part in (rows, positions, tokens))
        states = [self._forward(tables, r, p, t, longest) for r, p, t in zip(*parts, strict=True)]
        return states[0] if len(states) == 1 else torch.cat(states)

    def _forward(
        self,
        tables: Sequence[torch.Tensor],
        rows: torch.Tensor,
        positions: torch.Tensor,
        tokens: torch.Tensor,
        longest: int,
    ) -> torch.Tensor:
        runner, n = self.runner, len(tokens)
        starts = torch.arange(n + 1, dtype=torch.int32)
        starts_device = starts.to(runner.device, non_blocking=True)
        lengths = (positions + 1).int()
        metadata: dict[str, Any] = {}
        slots_of_layer: dict[str, torch.Tensor] = {}
        for g, table in enumerate(tables):
            table = table[rows]
            slots = self.use_scratch(g, table, positions)
            common = CommonAttentionMetadata(
                query_start_loc=starts_device,
                query_start_loc_cpu=starts,
                seq_lens=lengths,
                seq_lens_cpu_upper_bound=torch.full((n,), longest + 1, dtype=torch.int32),
                num_reqs=n,
                num_actual_tokens=n,
                max_query_len=1,
                max_seq_len=longest + 1,
                block_table_tensor=table,
                slot_mapping=slots,
                causal=True,
                is_prefilling=torch.zeros(n, dtype=torch.bool),
                positions=positions,
            )
            for attention in runner.attn_groups[g]:
                built = attention.build_metadata(common)
                metadata.update(dict.fromkeys(attention.layer_names, built))
                slots_of_layer.update(dict.fromkeys(attention.layer_names, slots))
        self.statistics.forwards += 1
        self.statistics.rows += n
        config = runner.vllm_config
        with set_forward_context(metadata, config, num_tokens=n, slot_mapping=slots_of_layer):
            states: torch.Tensor = runner.model(
                input_ids=tokens.int(),
                positions=positions,
                intermediate_tensors=None,
                inputs_embeds=None,
            )
        return states if runner.s2t_layer is None else runner.s2t_layer.of(states).clone()

    def use_scratch(self, group: int, table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Lets block tables end in scratch blocks, in place, with what their last blocks hold.

        A last block that has no token yet is copied too: that costs less than asking the device.

        Args:
            group: The cache group.
            table: Block tables, int32 [n, blocks].
            positions: Where the next token stands, int64 [n].

        Returns:
            The slots of the next tokens, int64 [n].
        """
        size, scratch = self.block_sizes[group], self.scratch[group][: len(positions)]
        column = (positions // size)[:, None]
        self.copy_blocks(group, table.gather(1, column)[:, 0].long(), scratch)
        table.scatter_(1, column, scratch[:, None].int())
        slots: torch.Tensor = scratch * size + positions % size
        return slots
