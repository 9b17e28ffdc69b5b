"""The operators beside torch, torch.compile and FlashInfer (where installed), at a real vocabulary.

    python bench/gpu/kernels.py [--device cuda]

Beside each time stands its bound: the bytes that must move once, over the bandwidth of a copy on
this device. The first row is the floor: an empty elementwise kernel, launched the same way.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from measure import copy_bandwidth, microseconds, put

from s2t_ext import ops

FILE = "kernels.jsonl"
SAMPLING = {  # temperature, top_k, top_p
    "T = 1": (1.0, 0, 1.0),
    "T = 0.7, top-k 20, top-p 0.8": (0.7, 20, 0.8),
    "top-p 0.9": (1.0, 0, 0.9),
    "top-k 200": (1.0, 200, 1.0),
}
SCORE_SHAPES = ((896, 8, 16), (1536, 16, 16), (4096, 16, 16), (4096, 64, 64))  # D, K, R

Calls = dict[str, Callable[[], Any]]


def torch_propose(logits: torch.Tensor, k: int = 16) -> tuple[torch.Tensor, ...]:
    """What `ops.propose_candidates` returns, in torch's operators."""
    top = logits.topk(64, dim=1)
    logprobs = torch.log_softmax(logits.float(), dim=1)
    support = torch.log_softmax(top.values.float(), dim=1)
    return (
        top.indices[:, :k],
        torch.logsumexp(logits.float(), 1),
        -(support.exp() * support).sum(1),
        -(logprobs.exp() * logprobs).sum(1),
    )


def row_calls(logits: torch.Tensor) -> Calls:
    """Operators that read a row of the vocabulary."""
    batch, vocab = logits.shape
    device = logits.device
    ids = torch.randint(vocab, (batch, 64), device=device)
    student = torch.randn(batch, 64, device=device)
    compiled = torch.compile(torch_propose) if device.type == "cuda" else torch_propose
    calls: Calls = {
        "propose_candidates": lambda: ops.propose_candidates(logits, 16),
        "support_kl": lambda: ops.support_kl(ids, student, logits, ids[:, :16]),
        "torch: topk, logsumexp, entropies": lambda: torch_propose(logits),
        "torch.compile of these": lambda: compiled(logits),
        "torch.topk(64)": lambda: logits.topk(64, dim=1),
        "torch.logsumexp": lambda: logits.float().logsumexp(1),
        "torch: softmax, multinomial": lambda: torch.multinomial(logits.float().softmax(1), 1),
    }
    for name, values in SAMPLING.items():
        calls[f"sample_token {name}"] = _sampling(logits, *values)
    return {**calls, **flashinfer_calls(logits)}


def _sampling(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float
) -> Callable[[], Any]:
    batch, device = logits.shape[0], logits.device
    number = torch.arange(batch, device=device)
    rules = dict(
        temperature=torch.full((batch,), temperature, device=device),
        top_k=torch.full((batch,), top_k, dtype=torch.int64, device=device),
        top_p=torch.full((batch,), top_p, device=device),
        min_p=torch.zeros(batch, device=device),
    )
    return lambda: ops.sample_token(logits, **rules, seed=number, position=number)


def flashinfer_calls(logits: torch.Tensor) -> Calls:
    """The nearest of FlashInfer's; nothing where it is not installed."""
    try:
        import flashinfer
    except ImportError:
        return {}
    probs = logits.float().softmax(1)
    return {
        "flashinfer top_k only": lambda: flashinfer.top_k(logits, 16),
        "flashinfer top-p 0.9 (from probabilities)": lambda: (
            flashinfer.sampling.top_p_sampling_from_probs(probs, 0.9)
        ),
    }


def score_calls(batch: int, size: int, k: int, bins: int, device: str) -> Calls:
    """Scoring and selection, and torch's matrix product with softmax and argmax."""
    hidden = torch.randn(batch, k, size, device=device).bfloat16()
    rows = torch.randn(bins, size, device=device).bfloat16() * 0.05
    values = torch.linspace(0, 1, bins, device=device)
    number = torch.zeros(batch, dtype=torch.int64, device=device)
    choice = dict(
        ids=torch.randint(1000, (batch, k), device=device),
        candidate_logprobs=torch.randn(batch, k, device=device),
        triggered=number == 0,
        default_token=number,
        finished=number != 0,
        pad_id=0,
        bin_values=values,
        prior_weight=0.1,
    )
    flat = hidden.flatten(0, 1)
    return {
        "score_and_select": lambda: ops.score_and_select(hidden, rows, **choice),
        "torch: product, softmax, argmax": lambda: (
            ((flat @ rows.T).float().softmax(1) @ values).view(batch, k).argmax(1)
        ),
    }


def commit_calls(batch: int, device: str) -> Calls:
    """28 layers of 2 heads of 128, keys and values."""
    buffers = [
        torch.zeros(batch, 2, 1024, 128, dtype=torch.bfloat16, device=device) for _ in range(56)
    ]
    place = torch.full((batch,), 3, dtype=torch.int64, device=device)
    call = lambda: ops.commit_candidates(buffers[:28], buffers[28:], place, place, 8)  # noqa: E731
    return {"commit_candidates, 28 layers": call}


def record(calls: Calls, device: str, **shape: Any) -> None:
    """One line a call; one that fails says so and the others go on."""
    for name, call in calls.items():
        try:
            put(FILE, what=name, **shape, **microseconds(call, device))
        except Exception as error:  # a baseline of another release, or no memory: still a result
            put(FILE, what=name, **shape, error=f"{type(error).__name__}: {error}"[:200])


def main() -> None:
    """Everything, smallest batch first, so that a stop loses the largest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    real = device == "cuda"
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(device)
    put(FILE, what="copy", terabytes_per_second=round(bandwidth / 1e12, 3))
    one = torch.zeros(1, device=device)
    record({"floor: one empty kernel": lambda: one.add_(0)}, device)
    vocab = 151_936 if real else 4096
    for batch in (1, 8, 64, 256) if real else (2,):
        for dtype in (torch.bfloat16, torch.float32):
            logits = (torch.randn(batch, vocab, device=device) * 3).to(dtype)
            bound = round(logits.numel() * logits.element_size() / bandwidth * 1e6, 2)
            name = str(dtype).removeprefix("torch.")
            record(row_calls(logits), device, batch=batch, dtype=name, bound_us=bound)
        for size, k, bins in SCORE_SHAPES if real else ((64, 4, 4),):
            shape = dict(batch=batch, dtype=f"bfloat16, D {size}, K {k}, R {bins}")
            bound = round(2 * batch * k * size / bandwidth * 1e6, 2)
            record(score_calls(batch, size, k, bins, device), device, **shape, bound_us=bound)
        bound = round(batch * 56 * 2 * 2 * 128 * 2 / bandwidth * 1e6, 2)
        record(commit_calls(batch, device), device, batch=batch, dtype="bfloat16", bound_us=bound)


if __name__ == "__main__":
    main()
