"""Every operator once on the device, against the bits of the CPU kernels.

python bench/gpu/bits.py [--device cuda] [--small]     --small: few elements, for compute-sanitizer
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from s2t_ext import ops
from s2t_ext.testing import assert_same_bits

Case = tuple[str, Callable[..., Any], dict[str, Any]]


def cases(small: bool) -> Iterator[Case]:
    """(name, operator, arguments on the CPU), rows at odd offsets and strides, a NaN among them."""
    vocab, batches = (4097, (1, 3)) if small else (151_936, (1, 3, 64, 300))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for batch in batches:
            logits = torch.randn(batch, vocab + 5).mul(3).to(dtype)[:, 1 : vocab + 1]
            logits[0, 5] = float("nan")
            yield from _row_cases(f"{dtype} batch {batch}", logits)
            yield from _score_cases(f"{dtype} batch {batch}", batch, dtype)


def _row_cases(name: str, logits: torch.Tensor) -> Iterator[Case]:
    batch, vocab = logits.shape
    yield f"propose_candidates {name}", ops.propose_candidates, dict(logits=logits, k=16)
    yield (
        f"support_kl {name}",
        ops.support_kl,
        dict(
            student_ids=torch.randint(vocab, (batch, 64)),
            student_logits=torch.randn(batch, 64),
            teacher_logits=logits,
            candidate_ids=torch.randint(vocab, (batch, 16)),
        ),
    )

    def rule(values: list[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor((values * batch)[:batch]).to(dtype)

    yield (
        f"sample_token {name}",
        ops.sample_token,
        dict(
            logits=logits,
            temperature=rule([1.0, 0.7, 0.0], torch.float32),
            top_k=rule([0, 50, 0, 300], torch.int64),
            top_p=rule([1.0, 0.9, 0.95], torch.float32),
            min_p=rule([0.0, 0.05], torch.float32),
            seed=torch.arange(batch),
            position=torch.arange(batch),
        ),
    )


def _score_cases(name: str, batch: int, dtype: torch.dtype) -> Iterator[Case]:
    k, bins, size = 8, 16, 1536
    hidden, rows = torch.randn(batch, k, size).to(dtype), torch.randn(bins, size).to(dtype) * 0.05
    choice = dict(
        ids=torch.randint(1000, (batch, k)),
        triggered=torch.ones(batch, dtype=torch.bool),
        default_token=torch.zeros(batch, dtype=torch.int64),
        finished=torch.zeros(batch, dtype=torch.bool),
        pad_id=0,
        score_temperature=0.7,
        seed=torch.arange(batch),
        position=torch.arange(batch),
    )
    logprobs = torch.randn(batch, k)
    head = dict(hidden=hidden, rows=rows, candidate_logprobs=logprobs, prior_weight=0.1)
    yield f"score_and_select {name}", ops.score_and_select, {**head, **choice}
    flat = dict(hidden=hidden.flatten(0, 1), rows=rows)
    yield f"score_candidates {name}", ops.score_candidates, flat
    yield f"select_token {name}", ops.select_token, {**choice, "scores": logprobs}


def committed(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """The buffers after a commit, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    buffers = [torch.randint(100, (3, 2, 40, 64), generator=generator) for _ in range(80)]
    moved = [x.to(dtype).to(device) for x in buffers]
    slot, start = torch.tensor([0, 3, 7]).to(device), torch.tensor([4, 9, 30]).to(device)
    ops.commit_candidates(moved[:40], moved[40:], slot, start, 8)
    return [x.cpu() for x in moved]


def copied(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """The caches after their blocks were copied, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    caches = [torch.randint(100, (40, 2, 16, 64), generator=generator) for _ in range(100)]
    moved = [x.to(dtype).to(device) for x in caches]
    source, target = torch.tensor([0, 3, 7]).to(device), torch.tensor([39, 20, 11]).to(device)
    ops.copy_blocks(moved, source, target)
    return [x.cpu() for x in moved]


def _moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _same(name: str, actual: Any, expected: Any) -> bool:
    one = isinstance(actual, torch.Tensor)
    pairs = [(actual, expected)] if one else list(zip(actual, expected, strict=True))
    try:
        for a, b in pairs:
            assert_same_bits(a.cpu(), b)
    except AssertionError as error:
        print(f"{name}: DIFFERENT: {error}", flush=True)
        return False
    print(f"{name}: equal", flush=True)
    return True


def main() -> int:
    """0 if every result has the bits of the CPU kernels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    equal = True
    for name, operator, arguments in cases(options.small):
        on_device = {key: _moved(value, options.device) for key, value in arguments.items()}
        equal &= _same(name, operator(**on_device), operator(**arguments))
    for dtype in (torch.bfloat16, torch.uint8):
        pair = committed(options.device, dtype), committed("cpu", dtype)
        equal &= _same(f"commit_candidates {dtype}", tuple(pair[0]), tuple(pair[1]))
        pair = copied(options.device, dtype), copied("cpu", dtype)
        equal &= _same(f"copy_blocks {dtype}", tuple(pair[0]), tuple(pair[1]))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
