"""Packed against unpacked training: wall time and tokens per group, at equal loss.

    python bench/bench_distill.py MODEL [--tokens 300 --groups 30 --candidates 16 --dtype bfloat16]

MODEL is a folder or a hub repository. Unpacked training, which forwards prefix + candidate once per
candidate, is timed on `--unpacked-groups` of the groups; the packed loss of the same groups must
equal it before anything is timed. Written to `bench/results/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from harness import BENCH, peak_mib, write_results
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from s2t_ext.distillation.groups import Group, Trajectory, packed_length
from s2t_ext.distillation.losses import LossConfig
from s2t_ext.distillation.objective import Counts, ObjectiveMaker
from s2t_ext.distillation.optimization import denormals_flushed
from s2t_ext.distillation.packing import pack
from s2t_ext.distillation.score_head import ScoreHead

sys.path.insert(0, str(BENCH.parent / "python_tests" / "support"))
from unpacked_objective import unpacked_objective  # noqa: E402


def make_trajectory(vocab: int, prompt: int, response: int, groups: int, k: int) -> Trajectory:
    """Random tokens: what is timed does not depend on which."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randperm(vocab, generator=generator)[:count].tolist())

    steps = sorted(torch.randperm(response, generator=generator)[:groups].tolist())
    made = []
    for step in steps:
        probs = torch.rand(k, generator=generator).tolist()
        logprobs = tuple(-0.1 * i - 1 for i in range(k))
        made.append(Group(step, ids(k), logprobs, tuple(probs)))
    return Trajectory("0", ids(prompt), ids(response), tuple(made))


def subset(trajectory: Trajectory, count: int) -> Trajectory:
    """The trajectory with `count` of its groups, evenly spread."""
    every = max(1, len(trajectory.groups) // count)
    chosen = trajectory.groups[every // 2 :: every][:count]
    return Trajectory("1", trajectory.prompt, trajectory.response, chosen)


def without_groups(trajectory: Trajectory) -> Trajectory:
    """The same prefix, and nothing to choose."""
    count = trajectory.groups[-1].step + 1
    return Trajectory("2", trajectory.prompt, trajectory.response[:count], (), (0.0,) * count)


def seconds(step: Callable[[], torch.Tensor], repeats: int) -> list[float]:
    """Wall time of forward and backward."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step().backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times


def peak_gib() -> float:
    """Peak memory of the process so far (of the device, where there is one)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_mib() / 1024


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=300, help="of the response")
    parser.add_argument("--groups", type=int, default=30)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--unpacked-groups", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    return parser.parse_args()


def student(folder: str, dtype: torch.dtype, device: str) -> tuple[ObjectiveMaker, int]:
    """A model with a fresh adapter and score rows; and the size of its vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    torch.manual_seed(0)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
    model = get_peft_model(model, lora)
    config = model.config.get_text_config(decoder=True)
    head = ScoreHead(config.hidden_size, 16).to(device)
    return ObjectiveMaker(model, head, LossConfig()), config.vocab_size


def main() -> None:
    """Compares the losses, then times both."""
    options = arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, options.dtype)
    maker, vocabulary = student(options.model, dtype, device)
    trajectory = make_trajectory(
        vocabulary, options.prompt, options.tokens, options.groups, options.candidates
    )
    few = subset(trajectory, options.unpacked_groups)

    def packed(t: Trajectory) -> torch.Tensor:
        return maker.packed_objective(pack([t]).to(device), Counts.of([t])).total

    def unpacked(t: Trajectory) -> torch.Tensor:
        return unpacked_objective(maker, [t], Counts.of([t])).total

    with torch.no_grad():
        losses = packed(few).item(), unpacked(few).item()
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert abs(losses[0] - losses[1]) <= tolerance * abs(losses[1]), f"losses differ: {losses}"

    packed_seconds = seconds(lambda: packed(trajectory), options.repeats)
    packed_peak = peak_gib()
    unpacked_seconds = seconds(lambda: unpacked(few), options.repeats)
    prompt = len(few.prompt)
    unpacked_tokens = sum(len(g.candidates) * (prompt + g.step + 1) for g in few.groups)
    groups, count = len(trajectory.groups), len(few.groups)
    per_group = statistics.median(packed_seconds) / groups
    # One forward of the prefix (base term) is shared by all groups of a trajectory.
    shared_few, shared = (
        min(seconds(lambda t=t: packed(without_groups(t)), options.repeats))
        for t in (few, trajectory)
    )

    def unpacked_group(total: float) -> float:
        return (total - shared_few) / count + shared / groups

    unpacked_per_group = unpacked_group(statistics.median(unpacked_seconds))
    row = {
        "case": f"{options.candidates} candidates, {groups} groups in {len(trajectory.response)} "
        "response tokens",
        "threads": torch.get_num_threads(),
        "loss_packed": losses[0],
        "loss_unpacked": losses[1],
        "packed_seconds_per_group": per_group,
        "unpacked_seconds_per_group": unpacked_per_group,
        "ratio": unpacked_per_group / per_group,
        "ratio_low": unpacked_group(min(unpacked_seconds)) * groups / max(packed_seconds),
        "ratio_high": unpacked_group(max(unpacked_seconds)) * groups / min(packed_seconds),
        "packed_tokens_per_group": packed_length(trajectory) / groups,
        "unpacked_tokens_per_group": unpacked_tokens / count,
        "packed_seconds": packed_seconds,
        "unpacked_seconds": unpacked_seconds,
        "peak_gib_packed": packed_peak,
        "peak_gib_after_unpacked": peak_gib(),
    }
    name = options.model.rstrip("/").rsplit("/", 1)[-1]
    path = write_results("distill", [row], model=name, dtype=options.dtype)
    print(json.dumps(row, indent=2))
    print(path)


if __name__ == "__main__":
    with denormals_flushed():  # as in training
        main()
