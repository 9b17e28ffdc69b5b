"""Commit: wrapper and fake."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind


def commit_candidates(
    keys: Sequence[Tensor], values: Sequence[Tensor], slot: Tensor, start: Tensor, k: int
) -> None:
    """Keep the winner's key/value entry, in place and independent of the prefix length.

    The k candidates of row b lie at positions start[b] .. start[b] + k - 1 of every layer. Entry
    start[b] + slot[b] is copied to start[b]; the other k - 1 become free. Slot 0 is in place
    already, and a negative slot marks a row that commits nothing: both leave the row untouched,
    and its start is not looked at.

    Args:
        keys: One buffer per layer, [batch, heads, length, head_size], written in place. Any dtype
            and strides with a last stride of 1; layers may differ in all but batch.
        values: Likewise.
        slot: int64 [batch], less than k.
        start: int64 [batch], 0 <= start and start + k <= length.
        k: candidates per row, 1 to 64.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device; a slot or start out of range (CPU only:
            on other devices a row with such a value is left untouched). Nothing is written then.

    Source: the commit of one decode step; see csrc/README.md.
    """
    _op(keys=keys, values=values, slot=slot, start=start, k=k)


def _fake(**_: Any) -> None:
    return None


_op = bind("commit_candidates", reference.commit_candidates, _fake)
