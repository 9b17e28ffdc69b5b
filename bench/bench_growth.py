"""How the cost of decoding grows: prefix, batch, candidates and trigger rate, one at a time.

    python bench/bench_growth.py MODEL      writes bench/results/growth-*.json, prints a table

Around one base case (prefix 256, batch 1, K = 8, choices at 5 % of the steps) one axis is changed
at a time. Each case runs beside `model.generate` in turn; what stands in the table is the ratio of
the two inside a round (median, lowest and highest). Thresholds are quantiles of the entropies that
the same prompts meet without choices; the rate that came about is recorded. Peak memory is that of
a process of its own, and does not mind a busy machine: `--memory-of FILE` measures it for the times
of an earlier run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from harness import config_at_rate, peak_mib, rounds_or, write_results
from transformers import AutoModelForCausalLM

import s2t_ext

BASE = {"prefix": 256, "batch": 1, "k": 8, "rate": 0.05}
AXES = {
    "prefix": (256, 2048, 8000),
    "batch": (1, 4, 16),
    "k": (4, 8, 16, 32),
    "rate": (0.0, 0.05, 0.2, 1.0),
}
TOKENS, ROUNDS = 32, rounds_or(5)


def cases(axes=tuple(AXES)):
    """The base case once, then every other value of these axes."""
    yield dict(BASE)
    for axis in axes:
        for value in AXES[axis]:
            if value != BASE[axis]:
                yield {**BASE, axis: value}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


def prompts(model, case):
    """Unlike rows of arbitrary tokens: what a forward costs does not depend on them."""
    count = case["batch"] * case["prefix"]
    vocab = min(model.config.vocab_size, 10_000)
    return (torch.arange(count).view(case["batch"], -1) * 97) % (vocab - 100) + 100


def selector_for(model):
    """An untrained score head: what it costs does not depend on what it has learnt."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.get_text_config(decoder=True).hidden_size
    return s2t_ext.Selector(torch.randn(16, width, generator=generator) * 0.02, prior_weight=1.0)


def ours(model, selector, ids, config, options):
    return s2t_ext.generate(
        model, ids, s2t=config, selector=selector, seed=0, return_dict_in_generate=True, **options
    )


def config_for(model, selector, ids, case, options):
    """The trigger that fires at about `case["rate"]` of the steps of these prompts."""
    return config_at_rate(
        case["rate"], lambda config: ours(model, selector, ids, config, options), case["k"]
    )


def measure(model, case):
    """One row of results."""
    ids, selector = prompts(model, case), selector_for(model)
    options = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    config = config_for(model, selector, ids, case, options)
    never = s2t_ext.S2TConfig(k=case["k"], trigger="never")
    plain = model.generate(ids, **options)
    assert torch.equal(ours(model, selector, ids, never, options).sequences, plain)
    record = ours(model, selector, ids, config, options).s2t
    times = {"greedy": [], "s2t": []}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        model.generate(ids, **options)
        middle = time.perf_counter()
        ours(model, selector, ids, config, options)
        times["greedy"].append((middle - start) * 1e3 / TOKENS)
        times["s2t"].append((time.perf_counter() - middle) * 1e3 / TOKENS)
    ratios = [s / g for s, g in zip(times["s2t"], times["greedy"], strict=True)]
    return {
        **case,
        "trigger_rate": record.trigger_rate,
        "greedy_ms_per_step": statistics.median(times["greedy"]),
        "s2t_ms_per_step": statistics.median(times["s2t"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "rounds": ROUNDS,
    }


def peak_of(folder, case, greedy):
    """Peak resident size of a process that decodes this case once."""
    numbers = [str(case[name]) for name in BASE]
    command = [sys.executable, "-W", "ignore", __file__, folder, "--peak", *numbers, str(greedy)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(said.split()[-1])


def add_memory(folder, row):
    """The row with the peaks of its case, with choices at every step and by `generate`."""
    case = {name: row[name] for name in BASE}
    row["peak_mib"] = peak_of(folder, case, greedy=False)
    row["greedy_peak_mib"] = peak_of(folder, case, greedy=True)
    return row


def run_once(folder, case, greedy):
    """What `peak_of` runs: prints this process's own peak."""
    model = load(folder)
    ids, selector = prompts(model, case), selector_for(model)
    options = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    trigger = "always" if case["rate"] else "never"
    if greedy:
        model.generate(ids, **options)
    else:
        config = s2t_ext.S2TConfig(k=case["k"], trigger=trigger, warmup_steps=0)
        ours(model, selector, ids, config, options)
    print(peak_mib())


def table(rows):
    """Markdown."""
    lines = ["| prefix | batch | K | choices | ms a step | beside `generate` | peak MiB (greedy) |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        ratio = f"{row['ratio']:.2f} x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
        memory = f"{row['peak_mib']:.0f} ({row['greedy_peak_mib']:.0f})"
        lines.append(
            f"| {row['prefix']} | {row['batch']} | {row['k']} | {row['trigger_rate']:.0%} | "
            f"{row['s2t_ms_per_step']:.0f} | {ratio} | {memory} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a causal language model")
    parser.add_argument(
        "--axes", nargs="+", choices=AXES, default=list(AXES), help="what to change"
    )
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", type=Path, help="results whose peak memory is missing")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.peak:
        values = [float(v) if "." in v else int(v) for v in options.peak[:4]]
        case = dict(zip(BASE, values, strict=True))
        run_once(options.model, case, options.peak[4] == "True")
        return
    if options.memory_of:
        content = json.loads(options.memory_of.read_text())
        rows = [add_memory(options.model, row) for row in content["rows"]]
        options.memory_of.write_text(json.dumps(content, indent=1) + "\n")
        print(table(rows))
        return
    model, rows = load(options.model), []
    for case in cases(options.axes):
        rows.append(add_memory(options.model, measure(model, case)))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    name = Path(options.model).name
    path = write_results("growth", rows, model=name, dtype="bfloat16", tokens=TOKENS)
    print(f"{table(rows)}\nwrote {path}")


if __name__ == "__main__":
    main()
