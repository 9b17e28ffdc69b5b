"""Decoding a batch in which few rows need a choice: what the slots left out of a tree step save.

    S2T_EXT_BENCH_MODEL=path/to/model pytest bench/bench_batch.py

`BATCH` prompts, greedy, `TOKENS` new tokens, K = 8, choices at the `RATE` of all steps where the
entropy is highest. Beside each other in every round: `model.generate`; decoding with ragged tree
steps, in which a row that needs no choice costs one token; and with padded ones, in which it costs
K.
"""

import os
import statistics
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from bench_generate import MODEL, selector_for
from harness import config_at_rate, rounds_or, write_results

import s2t_ext
from s2t_ext.decoding.steps import self_test

BATCH = int(os.environ.get("S2T_EXT_BENCH_BATCH", "16"))
TOKENS = 64
RATE = 0.05
ROUNDS = rounds_or(5)

pytestmark = pytest.mark.skipif(
    MODEL is None, reason="set S2T_EXT_BENCH_MODEL to the folder of a causal language model"
)


def load(dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype).eval()


def runs(model, tokens):
    """Name -> function that generates `tokens` tokens of every row; the last two with a record."""
    ids = torch.arange(BATCH * 64).view(BATCH, 64) * 97 % 10_000 + 100
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    selector = selector_for(model)

    def decode(config, ragged):
        devices = self_test.RAGGED_DEVICES if ragged else ()
        with mock.patch.object(self_test, "RAGGED_DEVICES", devices):
            return s2t_ext.generate(
                model, ids, s2t=config, selector=selector, seed=0, return_dict_in_generate=True,
                **options,
            )  # fmt: skip

    config = config_at_rate(RATE, lambda look: decode(look, True))
    return {
        "greedy": lambda: model.generate(ids, **options),
        "ragged": lambda: decode(config, True),
        "padded": lambda: decode(config, False),
    }


def test_ragged_beside_padded():
    short = runs(load(torch.float32), 12)
    assert torch.equal(short["ragged"]().sequences, short["padded"]().sequences)
    named = runs(load(torch.bfloat16), TOKENS)
    tokens = {name: named[name]().s2t.tokens_through_model for name in ("ragged", "padded")}
    assert tokens["ragged"] < tokens["padded"]
    named["greedy"]()
    seconds = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, run in named.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rows = []
    case = f"decode {TOKENS} tokens of {BATCH} prompts, choices at {RATE:.0%} of steps"
    for name in named:
        ratios = [t / g for t, g in zip(seconds[name], seconds["greedy"], strict=True)]
        rows.append(
            {
                "case": case,
                "implementation": name,
                "ms_per_step": statistics.median(seconds[name]) * 1e3 / TOKENS,
                "ratio_to_greedy": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "tokens_through_model": tokens.get(name),
                "rounds": ROUNDS,
            }
        )
    write_results("batch", rows, model=Path(MODEL).name, dtype="bfloat16")
