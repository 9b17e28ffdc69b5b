"""Times of calls on a device, and the JSON lines they are kept in.

On a GPU a call is captured in a CUDA graph and replayed between two events: cold behind a flush of
the L2 cache, warm many times in one graph. On a CPU (the dry run) a clock is read around a few
calls: that shows that every line runs, not how fast.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

REPLAYS, CALLS_PER_GRAPH, EAGER_CALLS = 25, 20, 200
#: More than any L2 cache holds.
FLUSH_BYTES = 256 << 20


def put(file: str, **row: Any) -> None:
    """Appends one line to `file` in the folder S2T_EXT_GPU_DAY_OUTPUT, and prints it."""
    folder = Path(os.environ.get("S2T_EXT_GPU_DAY_OUTPUT", "."))
    with (folder / file).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def synchronize(device: str) -> None:
    """Waits for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def microseconds(call: Callable[[], Any], device: str) -> dict[str, Any]:
    """Median and 20th and 80th percentile of one call, cold and warm, and what the host needs to
    launch it (`eager`, the larger of host and device time).
    """
    if device != "cuda":
        return {"warm": _spread([_clock(call, 1) for _ in range(3)]), "eager": _clock(call, 1)}
    return {
        "cold": _spread(_replays(call, calls=1, flush=True)),
        "warm": _spread(_replays(call, calls=CALLS_PER_GRAPH, flush=False)),
        "eager": _clock(call, EAGER_CALLS),
    }


def copy_bandwidth(device: str) -> float:
    """Bytes a second of a large copy, reads and writes together."""
    source = torch.empty(1 << 30 if device == "cuda" else 1 << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    warm = microseconds(lambda: target.copy_(source), device)["warm"]["median"]
    return 2 * source.numel() / (warm * 1e-6)


def captured(call: Callable[[], Any], calls: int) -> torch.cuda.CUDAGraph:
    """A graph of `calls` calls, after three calls outside it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph


def _replays(call: Callable[[], Any], calls: int, flush: bool) -> list[float]:
    graph = captured(call, calls)
    noise = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda") if flush else None
    samples = []
    for _ in range(REPLAYS):
        if noise is not None:
            noise.zero_()
            noise.max()  # a read: the dirty lines are written back before the timed kernel starts
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(begin.elapsed_time(end) * 1e3 / calls)
    return samples


def _clock(call: Callable[[], Any], calls: int) -> float:
    synchronize("cuda" if torch.cuda.is_available() else "cpu")
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize("cuda" if torch.cuda.is_available() else "cpu")
    return round((time.perf_counter() - start) * 1e6 / calls, 2)


def _spread(samples: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(samples, n=5, method="inclusive")
    middle = statistics.median(samples)
    return {"median": round(middle, 2), "p20": round(cuts[0], 2), "p80": round(cuts[3], 2)}
