"""What teacher-guided decoding costs: S2T beside a student step plus a teacher step.

    S2T_EXT_BENCH_MODEL=STUDENT S2T_EXT_BENCH_TEACHER=TEACHER pytest bench/bench_teacher.py

One prompt, greedy, `TOKENS` new tokens, K = 8, divergence trigger. Every round runs student,
teacher and S2T once, in turn, and the ratio S2T / (student + teacher) is taken inside the round.
Student and teacher alone are `model.generate` on the same prompt; that side counts two loops.
Written to `bench/results/`: ms per token, and the ratio (median, lowest and highest round).
"""

import os
import statistics
import time
from pathlib import Path

import pytest
import torch
from bench_generate import PROMPT
from harness import rounds_or, write_results

import s2t_ext

TOKENS = 64
ROUNDS = rounds_or(7)
MODEL, TEACHER = os.environ.get("S2T_EXT_BENCH_MODEL"), os.environ.get("S2T_EXT_BENCH_TEACHER")
THRESHOLD = 0.88  # nats; about 5 % of the steps of the pair in the README

pytestmark = pytest.mark.skipif(
    MODEL is None or TEACHER is None,
    reason="set S2T_EXT_BENCH_MODEL and S2T_EXT_BENCH_TEACHER to folders of causal language models",
)


def test_beside_the_two_models_alone():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16).eval()
    large = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    teacher = s2t_ext.Teacher.from_model(large, AutoTokenizer.from_pretrained(TEACHER))
    options = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    outputs = []

    def collaborate(threshold):
        config = s2t_ext.S2TConfig(k=8, trigger="kl", threshold=threshold, select="teacher")
        output = s2t_ext.generate(
            student, ids, s2t=config, teacher=teacher, return_dict_in_generate=True, **options
        )
        outputs.append(output.s2t)
        return output.sequences

    named = {
        "student": lambda: student.generate(ids, **options),
        "teacher": lambda: large.generate(ids, **options),
        "s2t": lambda: collaborate(THRESHOLD),
    }
    # Never triggered, it is the student; this is the warm-up too.
    assert torch.equal(collaborate(1e9), named["student"]())
    named["teacher"]()
    milliseconds = {name: [] for name in named}
    for _ in range(ROUNDS):
        for name, run in named.items():
            start = time.perf_counter()
            run()
            milliseconds[name].append((time.perf_counter() - start) * 1e3 / TOKENS)
    ratios = [
        both / (small + big)
        for small, big, both in zip(*(milliseconds[n] for n in named), strict=True)
    ]
    row = {
        "case": f"S2T, {TOKENS} tokens, K = 8, KL > {THRESHOLD}",
        **{f"{name}_ms": statistics.median(values) for name, values in milliseconds.items()},
        "triggers": outputs[-1].triggers,
        "ratio_to_both_steps": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "rounds": ROUNDS,
    }
    models = f"{Path(MODEL).name} with {Path(TEACHER).name}"
    write_results("teacher", [row], model=models, dtype="bfloat16")
