"""Commit: keep the winner's key/value entry, whatever the length of the prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common

_OP = "commit_candidates"


def commit_candidates(
    keys: Sequence[Tensor], values: Sequence[Tensor], slot: Tensor, start: Tensor, k: int
) -> None:
    """See `s2t_ext.ops.commit_candidates`."""
    _check(keys, values, slot, start, k)
    moves = slot > 0
    batch = torch.arange(slot.shape[0], device=slot.device)
    for buffer in (*keys, *values):
        # A row that does not move copies some entry onto itself.
        target = torch.where(moves, start, 0)
        source = torch.where(moves, start + slot, 0)
        buffer[batch, :, target] = buffer[batch, :, source]


def _check(
    keys: Sequence[Tensor], values: Sequence[Tensor], slot: Tensor, start: Tensor, k: int
) -> None:
    common.require(
        len(keys) == len(values),
        _OP,
        "values",
        f"have as many layers as keys ({len(keys)})",
        len(values),
    )
    limit = common.MAX_CANDIDATES
    common.require(1 <= k <= limit, _OP, "k", f"be in [1, {limit}]", k)
    common.require_rank(_OP, "slot", slot, 1, "[batch]")
    common.require_dtype(_OP, "slot", slot, (torch.int64,))
    common.require_dtype(_OP, "start", start, (torch.int64,))
    common.require_shape(_OP, "start", start, slot.shape, "[batch]")
    common.require_device(_OP, "start", start, slot, "slot")
    shortest = None
    for name, buffers in (("keys", keys), ("values", values)):
        for layer, buffer in enumerate(buffers):
            argument = f"{name}[{layer}]"
            common.require_rank(_OP, argument, buffer, 4, "[batch, heads, length, head_size]")
            common.require_device(_OP, argument, buffer, slot, "slot")
            batch = slot.shape[0]
            common.require(
                buffer.shape[0] == batch, _OP, argument, f"have batch {batch}", buffer.shape[0]
            )
            has_unit_stride = buffer.shape[3] <= 1 or buffer.stride(3) == 1
            requirement = "have a last stride of 1"
            common.require(has_unit_stride, _OP, argument, requirement, buffer.stride(3))
            length = buffer.shape[2]
            shortest = length if shortest is None else min(shortest, length)
    if shortest is None or slot.device.type != "cpu":
        return  # reading device tensors would wait for the device
    for row_slot, row_start in zip(slot.tolist(), start.tolist(), strict=True):
        common.require(row_slot < k, _OP, "slot", f"be less than k = {k}", row_slot)
        if row_slot > 0:
            is_inside = 0 <= row_start <= shortest - k
            requirement = f"be in [0, {shortest - k}] (length {shortest} less k = {k})"
            common.require(is_inside, _OP, "start", requirement, row_start)
