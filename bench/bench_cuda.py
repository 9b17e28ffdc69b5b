"""Times the CUDA kernels on a GPU: replays of a CUDA graph, cold and warm L2, by device events.

    python bench/bench_cuda.py             prints a table
    python bench/bench_cuda.py --record    also writes the figures under bench/results/

Results are compared with the CPU kernels, bit for bit, before anything is timed. Baselines: what
the same answer costs in torch, and FlashInfer's top-k where it is installed. Beside each time
stands the bound: bytes that must move once, over the bandwidth a copy reaches on this device.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import write_results

from s2t_ext import ops
from s2t_ext.native import library as _library
from s2t_ext.testing import assert_same_bits

VOCAB, K, HIDDEN, BINS = 151_936, 16, 1536, 16
BATCHES = (1, 8, 64, 256)
REPLAYS, CALLS_PER_GRAPH = 30, 20


def flush_l2() -> None:
    """Writes more than any L2 holds."""
    torch.empty(256 << 20, dtype=torch.uint8, device="cuda").zero_()


def times_us(call: Callable[[], Any], cold: bool) -> dict[str, float]:
    """Median, 20 % and 80 % quantiles of one call, from replays of a graph. A warm graph holds
    many calls, so that starting it does not count; a cold one has one, behind a flush."""
    calls = 1 if cold else CALLS_PER_GRAPH
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    samples = []
    for _ in range(REPLAYS):
        if cold:
            flush_l2()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) * 1e3 / calls)
    low, _, middle, high = (statistics.quantiles(samples, n=10)[i] for i in (1, 2, 4, 7))
    return {"median_us": middle, "p20_us": low, "p80_us": high}


def copy_bandwidth() -> float:
    """Bytes a second that a large copy moves, reads and writes together."""
    source = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    time = times_us(lambda: target.copy_(source), cold=False)["median_us"]
    return 2 * source.numel() / (time * 1e-6)


def torch_propose(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    top = logits.topk(64, dim=1)
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1)
    support = torch.log_softmax(top.values.float(), dim=1)
    support_entropy = -(support.exp() * support).sum(dim=1)
    return top.indices[:, :K], torch.logsumexp(logits.float(), 1), entropy, support_entropy


def flashinfer_top_k() -> Callable[[torch.Tensor], Any] | None:
    try:
        import flashinfer
    except ImportError:
        return None
    return lambda logits: flashinfer.top_k(logits, K)


def propose_cases() -> list[dict[str, Any]]:
    cases = []
    for batch in BATCHES:
        for dtype in (torch.bfloat16, torch.float32):
            logits = (torch.randn(batch, VOCAB, device="cuda") * 3).to(dtype)
            expected = ops.propose_candidates(logits.cpu(), K)
            for a, b in zip(ops.propose_candidates(logits, K), expected, strict=True):
                assert_same_bits(a, b)
            calls = {
                "s2t_ext": lambda logits=logits: ops.propose_candidates(logits, K),
                "torch": lambda logits=logits: torch_propose(logits),
            }
            if top_k := flashinfer_top_k():
                calls["flashinfer top_k only"] = lambda logits=logits: top_k(logits)
            size = batch * (VOCAB * logits.element_size() + K * 12 + 16)
            cases.append(_case("propose_candidates", batch, dtype, size, calls))
    return cases


def score_cases() -> list[dict[str, Any]]:
    cases = []
    for batch in BATCHES:
        hidden = torch.randn(batch, K, HIDDEN, device="cuda").bfloat16()
        rows = (torch.randn(BINS, HIDDEN, device="cuda") * 0.05).bfloat16()
        values = torch.linspace(0, 1, BINS, device="cuda")
        head = (rows, None, values, 1.0, 1.0, None)
        flat = hidden.flatten(0, 1)
        on_cpu = [x.cpu() if isinstance(x, torch.Tensor) else x for x in head]
        expected = ops.score_candidates(flat.cpu(), *on_cpu)
        assert_same_bits(ops.score_candidates(flat, *head), expected)
        long = torch.zeros(batch, dtype=torch.int64, device="cuda")
        choice = (
            *(
                torch.arange(batch * K, device="cuda").view(batch, K),
                flat.new_zeros(batch, K).float(),
            ),
            *(0.0, long == 0, long, long != 0, 0, 0.0, long, long),
        )
        calls = {
            "s2t_ext": lambda hidden=hidden, head=head, choice=choice: ops.score_and_select(
                hidden, *head, *choice
            ),
            "torch": lambda flat=flat, rows=rows, values=values, batch=batch: (
                (torch.softmax((flat @ rows.T).float(), 1) @ values).view(batch, K).argmax(1)
            ),
        }
        size = 2 * HIDDEN * (batch * K + BINS) + batch * (K * 20 + 16)
        cases.append(_case("score_and_select", batch, torch.bfloat16, size, calls))
    return cases


def _case(operator: str, batch: int, dtype: torch.dtype, size: int, calls: dict) -> dict[str, Any]:
    times = {
        name: {state: times_us(call, state == "cold") for state in ("warm", "cold")}
        for name, call in calls.items()
    }
    name = str(dtype).removeprefix("torch.")
    return {"operator": operator, "batch": batch, "dtype": name, "bytes": size, "times": times}


def print_table(cases: list[dict[str, Any]], bandwidth: float) -> None:
    print("| operator | batch | dtype | bound (µs) | what | warm (µs) | cold (µs) |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        bound = case["bytes"] / bandwidth * 1e6
        for what, times in case["times"].items():
            warm, cold = (times[state]["median_us"] for state in ("warm", "cold"))
            row = (case["operator"], case["batch"], case["dtype"], f"{bound:.2f}", what)
            print("| " + " | ".join(map(str, row)) + f" | {warm:.2f} | {cold:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write bench/results/cuda-*.json")
    options = parser.parse_args()
    if not torch.cuda.is_available() or not _library.cuda_is_loaded():
        print(f"bench_cuda: needs a GPU and _C_cuda: {_library.cuda_load_error()}", file=sys.stderr)
        return 1
    bandwidth = copy_bandwidth()
    cases = propose_cases() + score_cases()
    print_table(cases, bandwidth)
    if options.record:
        versions = {"cuda": torch.version.cuda, "copy_bandwidth": bandwidth}
        print(f"written to {write_results('cuda', cases, **versions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
