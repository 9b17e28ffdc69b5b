"""What the tests of the emulated CUDA kernels share: schedules, a covering design, the oracle."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from s2t_ext.native import library as _library
from s2t_ext.testing import DISTRIBUTIONS, DTYPES, assert_same_bits

# name: order of threads, order of blocks, blocks resident (0: all), preemption, seed
SCHEDULES = {
    "forward": ("forward", "forward", 1, 0.0, 0),
    "reversed": ("reversed", "reversed", 1, 0.0, 0),
    "all_resident": ("forward", "random", 0, 0.0, 1),
    "random": ("random", "forward", 1, 0.0, 2),
    "random_resident": ("random", "random", 0, 0.0, 3),
    "preempted": ("random", "reversed", 3, 0.01, 4),
}

BATCHES = (1, 2, 3, 8, 17)
VOCABS = (1, 7, 63, 64, 65, 1023, 1025, 32_001, 50_257, 151_936)
KS = (1, 2, 8, 16, 63, 64)
LARGE_VOCAB = 50_000  # from here on a row costs a quarter of a second: batch 1 or 2 in most tests

needs_native = pytest.mark.skipif(
    not _library.is_loaded(), reason="the oracle is the native CPU library, which is not built"
)


@dataclass(frozen=True)
class RowCase:
    """Logits [batch, vocab] and a schedule."""

    batch: int
    vocab: int
    k: int
    dtype: torch.dtype
    is_aligned: bool
    schedule: str

    def make(self, distribution: str = "wide_normal") -> Tensor:
        """Rows that start at 16-byte boundaries, or that do not; NaN between them."""
        generator = torch.Generator().manual_seed(self.vocab + self.k)
        noise = torch.randn(self.batch, self.vocab, generator=generator)
        values = DISTRIBUTIONS[distribution](noise).to(self.dtype)
        stride = -(-self.vocab // 8) * 8 if self.is_aligned else self.vocab + 3
        offset = 0 if self.is_aligned else 1
        storage = torch.full((offset + self.batch * stride,), math.nan, dtype=self.dtype)
        rows = storage[offset:].view(self.batch, stride)[:, : self.vocab]
        rows.copy_(values)
        return rows

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        place = "aligned" if self.is_aligned else "unaligned"
        return f"{self.batch}x{self.vocab}-k{self.k}-{dtype}-{place}-{self.schedule}"


def row_cases(vocabs: tuple[int, ...] = VOCABS) -> list[RowCase]:
    """Every vocab under every schedule; every batch, k, dtype and alignment, many times each."""
    cases = []
    for v, vocab in enumerate(vocabs):
        batches = BATCHES if vocab < LARGE_VOCAB else (1, 2)
        for s, schedule in enumerate(SCHEDULES):
            cases.append(
                RowCase(
                    batch=batches[(v + s) % len(batches)],
                    vocab=vocab,
                    k=KS[(v + 5 * s) % len(KS)],
                    dtype=DTYPES[(v + s) % len(DTYPES)],
                    is_aligned=(v + s // 2) % 2 == 0,
                    schedule=schedule,
                )
            )
    return cases


def assert_same_results(actual: Any, expected: Any) -> None:
    """Bit for bit; of one tensor or several."""
    if isinstance(actual, Tensor):
        actual, expected = (actual,), (expected,)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_same_bits(a, b, f"result {i}")
