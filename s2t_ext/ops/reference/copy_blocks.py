"""Copy: whole blocks of paged caches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from s2t_ext.ops.reference import _common as common

_OP = "copy_blocks"


def copy_blocks(caches: Sequence[Tensor], source: Tensor, target: Tensor) -> None:
    """See `s2t_ext.ops.copy_blocks`."""
    _check(caches, source, target)
    for cache in caches:
        blocks = cache.shape[0]
        is_inside = (0 <= source) & (source < blocks) & (0 <= target) & (target < blocks)
        cache[target[is_inside]] = cache[source[is_inside]]


def _check(caches: Sequence[Tensor], source: Tensor, target: Tensor) -> None:
    common.require_rank(_OP, "source", source, 1, "[count]")
    common.require_dtype(_OP, "source", source, (torch.int64,))
    common.require_dtype(_OP, "target", target, (torch.int64,))
    common.require_shape(_OP, "target", target, source.shape, "[count]")
    common.require_device(_OP, "target", target, source, "source")
    for layer, cache in enumerate(caches):
        argument = f"caches[{layer}]"
        common.require(
            cache.dim() >= 2,
            _OP,
            argument,
            "have at least 2 dimensions [blocks, ...]",
            common.shape_text(cache.shape),
        )
        common.require_device(_OP, argument, cache, source, "source")
        common.require(
            cache.numel() == 0 or has_gapless_blocks(cache),
            _OP,
            argument,
            "have blocks without gaps in memory",
            f"strides {common.shape_text(cache.stride())}",
        )
    if not caches or source.device.type != "cpu":
        return  # reading device tensors would wait for the device
    _check_pairs(source.tolist(), target.tolist(), min(cache.shape[0] for cache in caches))


def has_gapless_blocks(cache: Tensor) -> bool:
    """Whether the elements of every block fill a run of memory, in any order of dimensions.

    Args:
        cache: [blocks, ...], not empty.
    """
    elements = 1
    for stride, size in sorted(zip(cache.stride()[1:], cache.shape[1:], strict=True)):
        if size != 1 and stride != elements:
            return False
        elements *= size
    return cache.shape[0] <= 1 or cache.stride(0) >= elements


def _check_pairs(source: list[int], target: list[int], blocks: int) -> None:
    for pair in zip(source, target, strict=True):
        for name, block in zip(("source", "target"), pair, strict=True):
            common.require(0 <= block < blocks, _OP, name, f"be in [0, {blocks})", block)
    moves = [(a, b) for a, b in zip(source, target, strict=True) if a != b]
    written = sorted(b for _, b in moves)
    for one, following in zip(written, written[1:], strict=False):
        common.require(one != following, _OP, "target", "name a block once", f"{one} twice")
    for read, _ in moves:
        common.require(read not in written, _OP, "target", "name no block of source", read)
