"""Wrong arguments of the operators that write into caches, and what each is told."""

import torch
from op_arguments import i64, zeros

BUFFER = "[batch, heads, length, head_size]"

CASES_OF_CACHES = [
    ("commit_candidates", {"k": 0}, "k must be in [1, 64], got 0"),
    ("commit_candidates", {"values": []}, "values must have as many layers as keys (1), got 0"),
    (
        "commit_candidates",
        {"slot": zeros(2, 1, dtype=i64)},
        "slot must have 1 dimensions [batch], got [2, 1]",
    ),
    ("commit_candidates", {"slot": zeros(2)}, "slot must be int64, got float32"),
    ("commit_candidates", {"start": zeros(2)}, "start must be int64, got float32"),
    (
        "commit_candidates",
        {"start": zeros(3, dtype=i64)},
        "start must have shape [batch] = [2], got [3]",
    ),
    (
        "commit_candidates",
        {"keys": [zeros(2, 20, 4)]},
        f"keys[0] must have 4 dimensions {BUFFER}, got [2, 20, 4]",
    ),
    ("commit_candidates", {"values": [zeros(3, 1, 24, 4)]}, "values[0] must have batch 2, got 3"),
    (
        "commit_candidates",
        {"values": [zeros(2, 1, 4, 24).transpose(2, 3)]},
        "values[0] must have a last stride of 1, got 24",
    ),
    ("commit_candidates", {"slot": torch.tensor([0, 8])}, "slot must be less than k = 8, got 8"),
    (
        "commit_candidates",
        {"start": torch.tensor([0, 13])},
        "start must be in [0, 12] (length 20 less k = 8), got 13",
    ),
    (
        "commit_candidates",
        {"start": torch.tensor([0, -1])},
        "start must be in [0, 12] (length 20 less k = 8), got -1",
    ),
    (
        "copy_blocks",
        {"source": zeros(3, 1, dtype=i64)},
        "source must have 1 dimensions [count], got [3, 1]",
    ),
    ("copy_blocks", {"source": zeros(3)}, "source must be int64, got float32"),
    ("copy_blocks", {"target": zeros(3)}, "target must be int64, got float32"),
    (
        "copy_blocks",
        {"target": zeros(2, dtype=i64)},
        "target must have shape [count] = [3], got [2]",
    ),
    (
        "copy_blocks",
        {"caches": [zeros(6, 4), zeros(6)]},
        "caches[1] must have at least 2 dimensions [blocks, ...], got [6]",
    ),
    (
        "copy_blocks",
        {"caches": [zeros(6, 4, 6)[:, :, 1:5]]},
        "caches[0] must have blocks without gaps in memory, got strides [24, 6, 1]",
    ),
    (
        "copy_blocks",
        {"caches": [zeros(4, 6).T]},
        "caches[0] must have blocks without gaps in memory, got strides [1, 6]",
    ),
    (
        "copy_blocks",
        {"source": torch.tensor([0, 6, 5])},
        "source must be in [0, 6), got 6",
    ),
    ("copy_blocks", {"target": torch.tensor([1, -1, 5])}, "target must be in [0, 6), got -1"),
    (
        "copy_blocks",
        {"target": torch.tensor([1, 1, 5])},
        "target must name a block once, got 1 twice",
    ),
    (
        "copy_blocks",
        {"target": torch.tensor([3, 4, 5])},
        "target must name no block of source, got 3",
    ),
]
