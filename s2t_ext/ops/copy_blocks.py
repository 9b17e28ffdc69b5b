"""Copy: wrapper and fake."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind


def copy_blocks(caches: Sequence[Tensor], source: Tensor, target: Tensor) -> None:
    """Copy whole blocks of paged key/value caches, in place and in all layers by one launch.

    Block source[i] of every cache is copied to block target[i]; where they are the same block,
    nothing is done. The pairs are independent: no block may be written that another pair reads or
    writes.

    Args:
        caches: One per layer, [blocks, ...], written in place. Any dtype; layers may differ in all
            dimensions. The elements of a block must be gapless in memory, in any order of
            dimensions; between blocks there may be gaps, for instance the blocks of other layers.
        source: int64 [count], each less than the number of blocks of every cache.
        target: int64 [count], likewise.

    Raises:
        RuntimeError: wrong rank, shape, dtype, device or strides; a block that is not in a cache
            (CPU only: on other devices such a pair is left out); a block that two pairs write or
            one writes and another reads (CPU only: on other devices its content is undefined).
            Nothing is written then.

    Source: the last block of a prefix in paged attention (Kwon et al. 2023, section 4.4).
    """
    _op(caches=caches, source=source, target=target)


def _fake(**_: Any) -> None:
    return None


_op = bind("copy_blocks", reference.copy_blocks, _fake)
