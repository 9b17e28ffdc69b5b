"""One rule for the random numbers of a run: those of different seeds have nothing in common.

The operators draw from Philox, keyed by a 64-bit integer per row. A run has one seed, its rows are
told apart by the number of their problem and, where a problem is answered several times, by the
path. The three are the digits of one key:

    key = (seed * 2^24 + problem) * 2^12 + path

so two rows have the same key only if all three are equal, whatever the batches are.
"""

from __future__ import annotations

from s2t_ext.runs.checks import require

#: Limits of the three parts; their product is 2^63, the keys that fit into a signed 64-bit integer.
SEEDS, PROBLEMS, PATHS = 1 << 27, 1 << 24, 1 << 12


def row_seed(seed: int, problem: int, path: int = 0) -> int:
    """The key of one row's random numbers.

    Args:
        seed: Of the run, 0..2^27 - 1.
        problem: Number of the problem or prompt within the run, 0..2^24 - 1.
        path: Which of its answers, 0..2^12 - 1.

    Returns:
        A number in [0, 2^63) that no other (seed, problem, path) has.

    Raises:
        ValueError: if one of them is out of its range.
    """
    for name, value, limit in (
        ("seed", seed, SEEDS),
        ("problem", problem, PROBLEMS),
        ("path", path, PATHS),
    ):
        require(0 <= value < limit, "row_seed", name, f"be in [0, {limit})", value)
    return (seed * PROBLEMS + problem) * PATHS + path
