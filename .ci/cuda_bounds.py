"""Lower bounds of the kernels' time, for the tables of csrc/cuda/README.md: .ci/cuda_static_gates
writes them.
"""

from typing import NamedTuple

VOCAB, K = 151_936, 16
LAUNCH = 2.0  # microseconds


class Gpu(NamedTuple):
    bandwidth: float  # bytes per second
    multiprocessors: int
    clock: float  # boost, in Hz


# NVIDIA's published figures: 2 x 128 x multiprocessors x clock are their fp32 operations a second.
# Every multiprocessor has 4 schedulers, each for 32 lanes.
GPUS = {
    "H100 SXM": Gpu(3.35e12, 132, 1.755e9),
    "RTX 4090": Gpu(1.008e12, 128, 2.52e9),
    "A10": Gpu(600e9, 72, 1.695e9),
    "L4": Gpu(300e9, 58, 2.04e9),
}


def bounds(gpu: Gpu, size: float, instructions: float) -> tuple[float, float]:
    """Microseconds for that many bytes, and for that many instructions of lanes."""
    lanes_per_second = gpu.multiprocessors * 4 * 32 * gpu.clock
    return size / gpu.bandwidth * 1e6, instructions / lanes_per_second * 1e6


def propose_bytes(batch: int, width: int) -> float:
    return batch * (VOCAB * width + K * 12 + 16)


def bound_table(ptx_per_logit: dict[str, float]) -> str:
    """Bytes that must move at least once, over the bandwidth of an H100 SXM, and instructions that
    must be issued, over what its schedulers issue. The estimate lets neither hide the other, as a
    warp loads a chunk and then reduces it, and adds a launch.
    """
    lines = [
        "| operator | batch | dtype | bytes | by bytes (µs) | by instructions (µs) | "
        "estimate (µs) | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def add(operator: str, batch: int, dtype: str, size: float) -> None:
        per_logit = ptx_per_logit.get(f"{operator.split()[0]}_kernel")
        moved, issued = bounds(GPUS["H100 SXM"], size, batch * VOCAB * (per_logit or 0))
        lines.append(
            f"| {operator} | {batch} | {dtype} | {size:,.0f} | {moved:.2f} | "
            f"{f'{issued:.2f}' if per_logit else ''} | {LAUNCH + moved + issued:.1f} | "
            "not measured |"
        )

    for batch in (1, 8, 64, 256):
        for dtype, width in (("bf16", 2), ("fp32", 4)):
            add("propose_candidates", batch, dtype, propose_bytes(batch, width))
            add("support_kl", batch, dtype, batch * (VOCAB * width + 64 * 12 + K * 12 + 12))
            add("sample_token (temperature 1)", batch, dtype, batch * (VOCAB * width + 52))
    for batch in (1, 8, 64, 256):
        hidden = 1536
        size = 2 * hidden * (batch * K + 16) + batch * (K * 20 + 16)
        add("score_and_select", batch, "bf16", size)
    for batch in (1, 8, 64, 256):
        add("commit_candidates (28 layers, 2 heads of 128)", batch, "bf16", batch * 56 * 2 * 512)
    for requests in (1, 8, 64):
        size = requests * 8 * 28 * 16 * 2 * 256 * 2 * 2  # read and written
        add("copy_blocks (28 layers, 16 tokens of 2 heads of 128, k = 8)", requests, "bf16", size)
    return "\n".join(lines)


def gpu_table(per_logit: float) -> str:
    """The bounds of propose_candidates in bfloat16 on other GPUs, with what they follow from."""
    batches = (1, 8, 64)
    columns = " | ".join(f"batch {batch}: bytes + instructions (µs)" for batch in batches)
    lines = [f"| GPU | GB/s | multiprocessors | GHz | {columns} |", "|---|---|---|---|---|---|---|"]
    for name, gpu in GPUS.items():
        work = [(propose_bytes(batch, 2), batch * VOCAB) for batch in batches]
        pairs = [bounds(gpu, size, logits * per_logit) for size, logits in work]
        values = " | ".join(f"{moved:.2f} + {issued:.2f}" for moved, issued in pairs)
        lines.append(
            f"| {name} | {gpu.bandwidth / 1e9:,.0f} | {gpu.multiprocessors} | "
            f"{gpu.clock / 1e9:.3f} | {values} |"
        )
    return "\n".join(lines)
