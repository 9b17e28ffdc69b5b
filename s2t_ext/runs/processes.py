"""Work shared by the processes of `torchrun` or `accelerate launch`, on any number of machines."""

from __future__ import annotations

import os
from collections.abc import Sequence


def this_process() -> tuple[int, int]:
    """(number of this process, how many there are); (0, 1) where nothing launched several.

    Raises:
        ValueError: if the launcher's variables RANK and WORLD_SIZE make no sense.
    """
    rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdigit() and count.isdigit() and int(rank) < int(count)):
        raise ValueError(f"launch: RANK must be in [0, WORLD_SIZE = {count}), got {rank}")
    return int(rank), int(count)


def share_of_this_process(shards: Sequence[int]) -> list[int]:
    """Of numbered shards those this process does: number i of n takes i, i + n, i + 2 n, ..."""
    rank, count = this_process()
    return [shard for shard in shards if shard % count == rank]
