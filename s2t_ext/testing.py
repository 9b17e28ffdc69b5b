"""Cases, tolerances and comparators that the tests and the benchmarks share.

A case has a name, is made from its own seed, and says in its repr how to make it again.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from s2t_ext.native import cpu_isa

# Error allowed against the reference in float64, relative to max(1, |expected|), by input dtype.
# The operators widen their input and accumulate in float32, so the rounding of a half-precision
# input is in the reference too and earns no allowance.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}

DTYPES = tuple(TOLERANCES)

# ---- logits --------------------------------------------------------------------------------------


def _normal(deviation: float) -> Callable[[Tensor], Tensor]:
    return lambda noise: noise * deviation


def _gumbel(noise: Tensor) -> Tensor:
    u = (0.5 * (1 + torch.erf(noise / math.sqrt(2)))).clamp(1e-7, 1 - 1e-7)
    return -torch.log(-torch.log(u))


def _one_hot(noise: Tensor) -> Tensor:
    hot = noise.argmax(dim=1, keepdim=True)
    return torch.zeros_like(noise).scatter(1, hot, 20.0)


# From standard normal noise [batch, vocab] to logits.
DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": _normal(1.0),
    "wide_normal": _normal(5.0),
    "gumbel": _gumbel,
    "all_equal": lambda noise: torch.full_like(noise, 2.5),
    "two_values": lambda noise: (noise > 0).float(),
    "one_hot": _one_hot,
    "same_leading_bits": lambda noise: 16.0 + noise * 1e-5,
    "mostly_blocked": lambda noise: noise.masked_fill(noise < 1.2816, -math.inf),  # 90 %
    "ascending": lambda noise: noise.sort(dim=1).values,
    "descending": lambda noise: noise.sort(dim=1, descending=True).values,
    "masked_with_lowest": lambda noise: noise.masked_fill(noise < 0, torch.finfo().min),
}


@dataclass(frozen=True)
class LogitsCase:
    """Logits [batch, vocab] of a named distribution, and what is asked of them."""

    batch: int
    vocab: int
    k: int
    support: int = 64
    dtype: torch.dtype = torch.float32
    distribution: str = "wide_normal"
    row_padding: int = 0  # columns between rows that are no logits: row stride vocab + row_padding
    seed: int = 0

    def make(self, device: str | torch.device = "cpu") -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.batch, self.vocab, generator=generator)
        logits = DISTRIBUTIONS[self.distribution](noise).to(self.dtype)
        # NaN between the rows shows up wherever it is read.
        padded = torch.full((self.batch, self.vocab + self.row_padding), math.nan, dtype=self.dtype)
        padded[:, : self.vocab] = logits
        return padded.to(device)[:, : self.vocab]

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        text = f"{self.batch}x{self.vocab}-k{self.k}-s{self.support}-{dtype}-{self.distribution}"
        return text + (f"-padding{self.row_padding}" if self.row_padding else "")


_BASE_LOGITS = LogitsCase(batch=3, vocab=1000, k=8)

LOGITS_CASES = (
    *(replace(_BASE_LOGITS, distribution=name) for name in DISTRIBUTIONS),
    *(replace(_BASE_LOGITS, dtype=dtype, vocab=4097) for dtype in DTYPES),
    *(replace(_BASE_LOGITS, vocab=vocab) for vocab in (1, 7, 63, 64, 65, 1023, 1024, 1025, 32_001)),
    *(replace(_BASE_LOGITS, k=k) for k in (1, 2, 63, 64)),
    replace(_BASE_LOGITS, support=0),
    replace(_BASE_LOGITS, support=8),
    replace(_BASE_LOGITS, row_padding=1),
    replace(_BASE_LOGITS, row_padding=64, dtype=torch.bfloat16),
    replace(_BASE_LOGITS, batch=33),
    replace(_BASE_LOGITS, batch=1, vocab=151_936),
)

# ---- scores --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreCase:
    """Hidden states of candidates and a score head; `head()` are the arguments after `hidden`."""

    batch: int = 3
    k: int = 8
    hidden_size: int = 96
    num_bins: int = 16
    hidden_dtype: torch.dtype = torch.float32
    rows_dtype: torch.dtype = torch.float32
    has_bias: bool = False
    bin_temperature: float = 1.0
    logit_scale: float = 1.0
    softcap: float | None = None
    prior_weight: float = 0.0
    seed: int = 0

    def _generator(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self.seed + stream)

    def hidden(self, device: str | torch.device = "cpu") -> Tensor:
        """[batch, k, hidden_size], of the size a final norm leaves."""
        shape = (self.batch, self.k, self.hidden_size)
        return torch.randn(shape, generator=self._generator(0)).to(device, self.hidden_dtype)

    def head(self, device: str | torch.device = "cpu") -> dict[str, Any]:
        generator = self._generator(1)
        scale = 2.0 / math.sqrt(self.hidden_size)  # logits of deviation 2
        rows = torch.randn(self.num_bins, self.hidden_size, generator=generator) * scale
        bias = torch.randn(self.num_bins, generator=generator)
        return {
            "rows": rows.to(device, self.rows_dtype),
            "bias": bias.to(device, self.rows_dtype) if self.has_bias else None,
            "bin_values": torch.linspace(0, 1, self.num_bins, device=device),
            "bin_temperature": self.bin_temperature,
            "logit_scale": self.logit_scale,
            "softcap": self.softcap,
        }

    def choice(self, device: str | torch.device = "cpu") -> dict[str, Any]:
        """What `score_and_select` needs besides; every row is triggered."""
        generator = self._generator(2)
        logprobs = -3 * torch.rand(self.batch, self.k, generator=generator)
        ids = torch.randperm(self.batch * self.k, generator=generator).view(self.batch, self.k)
        return {
            "ids": ids.to(device),
            "candidate_logprobs": logprobs.sort(dim=1, descending=True).values.to(device),
            "triggered": torch.ones(self.batch, dtype=torch.bool, device=device),
            "default_token": torch.arange(1000, 1000 + self.batch, device=device),
            "finished": torch.zeros(self.batch, dtype=torch.bool, device=device),
            "pad_id": 999,
            "prior_weight": self.prior_weight,
        }

    def __str__(self) -> str:
        changed = [
            f"{name}={str(value).removeprefix('torch.')}"
            for name, value in vars(self).items()
            if value != getattr(ScoreCase, name)
        ]
        return "-".join(changed) or "base"


SCORE_CASES = (
    ScoreCase(),
    *(
        ScoreCase(hidden_dtype=a, rows_dtype=b)
        for a in DTYPES
        for b in DTYPES
        if (a, b) != 2 * (DTYPES[0],)
    ),
    *(ScoreCase(hidden_size=size) for size in (1, 7, 31, 32, 33, 63, 65, 896, 2049)),
    *(ScoreCase(num_bins=num_bins) for num_bins in (1, 2, 3, 15, 17, 64)),
    *(ScoreCase(k=k) for k in (1, 2, 3, 5, 64)),
    ScoreCase(batch=1),
    ScoreCase(batch=65, k=3),
    ScoreCase(has_bias=True),
    ScoreCase(has_bias=True, rows_dtype=torch.bfloat16),
    ScoreCase(bin_temperature=0.25),
    ScoreCase(logit_scale=0.125),
    ScoreCase(softcap=3.0),
    ScoreCase(softcap=30.0, logit_scale=2.0, has_bias=True, bin_temperature=0.7),
    ScoreCase(prior_weight=0.2),
    ScoreCase(prior_weight=-0.5),
)

# ---- comparators ---------------------------------------------------------------------------------


def assert_same_bits(actual: Tensor, expected: Tensor, what: str = "result") -> None:
    """Equal shapes, dtypes and bits: NaN equals the same NaN, -0 differs from +0."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype} is not {expected.dtype}"
    width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    a, b = actual.cpu().contiguous(), expected.cpu().contiguous()
    differs = a.view(width) != b.view(width)
    assert not differs.any(), _first_difference(what, a, b, differs)


def assert_close(
    actual: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32, what: str = "result"
) -> None:
    """Within TOLERANCES[dtype] of `expected`, relative to max(1, |expected|); infinities and NaN
    in the same places."""
    assert actual.shape == expected.shape, f"{what}: {actual.shape} is not {expected.shape}"
    a, b = actual.double().cpu(), expected.double().cpu()
    allowed = TOLERANCES[dtype] * b.abs().clamp(min=1.0)
    same = (a == b) | (a.isnan() & b.isnan())
    differs = ~(same | (b.isfinite() & ((a - b).abs() <= allowed)))
    assert not differs.any(), _first_difference(what, a, b, differs)


def assert_best_slot(slot: Tensor, totals: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Every slot [batch] has the best of its row's totals [batch, k], to the tolerance."""
    best = totals.double().max(dim=1).values
    assert_close(totals.double().gather(1, slot[:, None]).squeeze(1), best, dtype, "chosen total")


def assert_frequencies(drawn: Tensor, expected: Tensor) -> None:
    """Chi-square at 5 standard deviations, a false alarm in less than 1 of 10^4 seeds."""
    counts = torch.bincount(drawn, minlength=expected.shape[0]).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0, f"impossible draws: {counts[~possible]}"
    mean = expected[possible].double() * drawn.shape[0]
    statistic = ((counts[possible] - mean) ** 2 / mean).sum().item()
    freedom = int(possible.sum()) - 1
    assert statistic < freedom + 5 * math.sqrt(2 * freedom) + 1, f"chi-square {statistic}"


def _first_difference(what: str, actual: Tensor, expected: Tensor, differs: Tensor) -> str:
    where = tuple(differs.nonzero()[0].tolist())
    count = int(differs.sum())
    return (
        f"{what}: {count} of {differs.numel()} differ, first at {list(where)}: "
        f"{actual[where].item()!r} is not {expected[where].item()!r}"
    )


# ---- ways to run ---------------------------------------------------------------------------------


def same_everywhere(operation: Callable[[], Tensor | tuple[Tensor, ...]]) -> Any:
    """Result of `operation` on every CPU instruction set and number of threads: the same bits.

    Without the native library there is one way to run, and its result is returned.
    """
    expected = operation()
    for isa in cpu_isa.available():
        for count in (1, 2, 3):
            with cpu_isa.forced(isa), threads(count):
                actual = operation()
            what = f"on {isa} with {count} threads"
            if isinstance(expected, Tensor):
                assert isinstance(actual, Tensor)
                assert_same_bits(actual, expected, what)
                continue
            for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
                assert_same_bits(a, b, f"result {i} {what}")
    return expected


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with this many intra-op threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
