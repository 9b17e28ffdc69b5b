"""Whole decoding on a real model: what Select-to-Think costs beside `model.generate`.

    S2T_EXT_BENCH_MODEL=path/to/model pytest bench/bench_generate.py

One prompt, greedy, `TOKENS` new tokens, K = 8; choices where the entropy lies above a quantile of
those this prompt meets without choices. Every round runs each configuration once, in turn,
and ratios are taken inside the round, so a slow minute of the machine slows all of them alike.
Written to `bench/results/`: ms per token, the ratio to `model.generate` (median, lowest and highest
of the rounds), peak resident size, and the time of one triggered step beside recomputing the prefix
per candidate.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from harness import config_at_rate, rounds_or, write_results

import s2t_ext

TOKENS = 100
ROUNDS = rounds_or(5)
RATES = {"never": 0.0, "1 %": 0.01, "10 %": 0.1, "always": 1.0}
PROMPT = (
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey, and how far does it "
    "go at 80 km/h? "
    "Think step by step."
)

MODEL = os.environ.get("S2T_EXT_BENCH_MODEL")
pytestmark = pytest.mark.skipif(
    MODEL is None, reason="set S2T_EXT_BENCH_MODEL to the folder of a causal language model"
)


@pytest.fixture(scope="module")
def student():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return model, tokenizer(PROMPT, return_tensors="pt").input_ids


def selector_for(model):
    """An untrained score head: what it costs does not depend on what it has learnt."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.get_text_config(decoder=True).hidden_size
    return s2t_ext.Selector(torch.randn(16, width, generator=generator) * 0.02, prior_weight=0.1)


def runs(model, input_ids):
    """Name -> function that generates TOKENS tokens."""
    options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    selector = selector_for(model)

    def decode(config, **more):
        return s2t_ext.generate(
            model, input_ids, s2t=config, selector=selector, seed=0, **options, **more
        )

    named = {"greedy": lambda: model.generate(input_ids, **options)}
    for name, rate in RATES.items():
        config = config_at_rate(rate, lambda look: decode(look, return_dict_in_generate=True))
        named[name] = lambda config=config: decode(config)
    return named


def test_ratios_to_greedy(student, request):
    model, input_ids = student
    named = runs(model, input_ids)
    assert torch.equal(named["greedy"](), named["never"]())  # also the warm-up, and the self-test
    named["always"]()
    milliseconds = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, run in named.items():
            start = time.perf_counter()
            run()
            milliseconds[name].append((time.perf_counter() - start) * 1e3 / TOKENS)
    rows = []
    for name in named:
        ratios = [t / g for t, g in zip(milliseconds[name], milliseconds["greedy"], strict=True)]
        rows.append(
            {
                "case": f"decode {TOKENS} tokens",
                "implementation": name,
                "ms_per_token": statistics.median(milliseconds[name]),
                "ratio_to_greedy": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "rounds": ROUNDS,
            }
        )
    write_results("generate", rows, model=Path(MODEL).name, dtype="bfloat16")


def test_triggered_step_beside_recomputing(student):
    """One triggered step at a 256-token prefix: candidate forward against K + 1 forwards of the
    prefix.
    """
    model, _ = student
    prefix = torch.arange(256)[None] * 97 % 10_000 + 100
    config, selector = s2t_ext.S2TConfig(trigger="always", warmup_steps=0), selector_for(model)
    s2t_ext.generate(
        model, prefix, s2t=config, selector=selector, max_new_tokens=2, do_sample=False
    )
    rows = []
    for _ in range(max(2, ROUNDS // 2)):
        steps = 4
        output = s2t_ext.generate(
            model, prefix, s2t=config, selector=selector, max_new_tokens=steps,
            min_new_tokens=steps, do_sample=False, return_dict_in_generate=True,
        )  # fmt: skip
        phases = output.s2t.milliseconds
        ours = sum(t for name, t in phases.items() if name != "prefill") / steps
        start = time.perf_counter()
        s2t_ext.reference.decode(model, prefix, config=config, selector=selector, max_new_tokens=1)
        theirs = (time.perf_counter() - start) * 1e3
        rows.append({"tree_ms": ours, "recompute_ms": theirs, "speed_up": theirs / ours})
    speed_ups = [row["speed_up"] for row in rows]
    write_results(
        "triggered_step",
        [
            {
                "case": "one triggered step, K = 8, 256-token prefix",
                "tree_ms": statistics.median(row["tree_ms"] for row in rows),
                "recompute_ms": statistics.median(row["recompute_ms"] for row in rows),
                "speed_up": statistics.median(speed_ups),
                "speed_up_low": min(speed_ups),
                "speed_up_high": max(speed_ups),
                "rounds": len(rows),
            }
        ],
        model=Path(MODEL).name,
        dtype="bfloat16",
    )


def test_peak_memory():
    """Peak resident size of a process that decodes once, greedy and with a choice at every step."""
    rows = []
    for _ in range(3):
        rows.append({name: _peak_in_a_process(name) for name in ("greedy", "always")})
    ratios = [row["always"] / row["greedy"] for row in rows]
    write_results(
        "memory",
        [
            {
                "case": f"peak resident size, {TOKENS} tokens",
                "greedy_mib": statistics.median(row["greedy"] for row in rows),
                "always_mib": statistics.median(row["always"] for row in rows),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
            }
        ],
        model=Path(MODEL).name,
        dtype="bfloat16",
    )


def _peak_in_a_process(name):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench_generate as b\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m = AutoModelForCausalLM.from_pretrained(b.MODEL, dtype=b.torch.bfloat16).eval()\n"
        "ids = AutoTokenizer.from_pretrained(b.MODEL)(b.PROMPT, return_tensors='pt').input_ids\n"
        "b.runs(m, ids)[sys.argv[2]]()\n"
        "import harness; print(harness.peak_mib())"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(Path(__file__).parent), name]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


@pytest.mark.parametrize("name", ["greedy", *RATES])
def test_decode(student, benchmark, name):
    """The same runs under pytest-benchmark, for its statistics and comparisons."""
    model, input_ids = student
    run = runs(model, input_ids)[name]
    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
