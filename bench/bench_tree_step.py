"""A tree step beside a plain step after a long prefix: attention with a mask, and split.

    python bench/bench_tree_step.py MODEL [--prefix 8192] [--batches 1 8] [--rounds 10]

A plain step takes one token of every row through the model, a tree step K candidates of which one
is kept; both end with the logits of the next step. With a mask, every candidate's query names the
entries it may see; split, the prefix runs without a mask and each candidate's own entry is merged
in by log-sum-exp (`s2t_ext/hf/attention/split_attention.py`, which a CPU does not use by itself: it
is switched on here). The cache holds arbitrary numbers: what a step costs does not depend on them.
Before anything is timed, both tree steps must give the same hidden states in float32, up to
rounding. Writes bench/results/tree_step-*.json, prints a table.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import torch
from harness import interleaved, write_results
from transformers import AutoModelForCausalLM

from s2t_ext.decoding.steps.tree_step import TreeStep
from s2t_ext.hf.attention import split_attention
from s2t_ext.hf.candidate_cache import candidate_cache
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.logits_head import find_logits_head

PLAIN, MASKED, SPLIT = "plain step", "tree step, mask", "tree step, split"


def filled_cache(model, batch, prefix, k):
    """A cache of `prefix` arbitrary entries a row, with room for K more."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = candidate_cache(config, expected_length=prefix + k)
    for layer in range(config.num_hidden_layers):
        shape = (batch, config.num_key_value_heads, prefix, size)
        cache.update(*(torch.randn(2, *shape) * 0.1).to(model.dtype), layer)
    return cache


def steps(model, batch, prefix, k):
    """Name -> a step that leaves the cache as it found it and returns the last hidden states."""
    cache, tree = filled_cache(model, batch, prefix, k), TreeStep(find_logits_head(model))
    tokens = torch.arange(batch * k).view(batch, k) + 100
    positions = torch.arange(prefix + 1).expand(batch, -1)
    context = CandidateContext(
        cache, tokens.new_zeros(batch, prefix), 0, None, positions, {}, padded=False
    )

    def forget(entries):
        for layer in cache.layers:
            layer.crop(-entries)

    def plain():
        ids, last = tokens[:, :1], positions[:, -1:]
        out = model(input_ids=ids, position_ids=last, past_key_values=cache, use_cache=True)
        forget(1)
        return out.logits

    def masked():
        forward = tree.forward(context, tokens, torch.ones(batch, dtype=torch.bool))
        forward.commit(torch.zeros(batch, dtype=torch.int64))  # and the logits of the next step
        forget(1)
        return forward.hidden

    def split():
        with patch.object(split_attention, "is_faster", lambda query, key, value: True):
            return masked()

    return {PLAIN: plain, MASKED: masked, SPLIT: split}


def relative_difference(model, k):
    """Of the two tree steps, by a float32 model after a short prefix. In bfloat16 the layers of a
    model blow the rounding of arbitrary entries up to where it says nothing.
    """
    named = steps(model, batch=2, prefix=256, k=k)
    expected, split = named[MASKED](), named[SPLIT]()
    return float((split - expected).norm() / expected.norm())


def measure(model, batch, prefix, k, rounds):
    """Rows of results of one batch size."""
    case = {"batch": batch, "prefix": prefix, "k": k}
    named = steps(model, batch, prefix, k)
    rows = interleaved(named, rounds=rounds, seconds=0.0, warmup=1)
    return [{**case, **row} for row in rows]


def table(rows):
    """Markdown: times, and how many plain steps a step costs (median, p20 to p80 over rounds)."""
    lines = ["| batch | step | ms | plain steps |", "|---|---|---|---|"]
    for plain in (row for row in rows if row["implementation"] == PLAIN):
        for row in (row for row in rows if row["batch"] == plain["batch"]):
            cost = plain[f"speed_up_over_{row['implementation']}"]
            lines.append(
                f"| {row['batch']} | {row['implementation']} | "
                f"{row['microseconds']['median'] / 1e3:.0f} | "
                f"{cost['median']:.2f} ({cost['p20']:.2f} to {cost['p80']:.2f}) |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a causal language model")
    parser.add_argument("--prefix", type=int, default=8192, help="entries of the cache")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--k", type=int, default=8, help="candidates")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options = parser.parse_args()
    torch.manual_seed(0)
    model, rows = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32), []
    with torch.no_grad():
        difference = relative_difference(model.eval(), options.k)
        assert difference < 1e-4, difference
        model.to(getattr(torch, options.dtype))
        for batch in options.batches:
            rows += measure(model, batch, options.prefix, options.k, options.rounds)
    name = Path(options.model).name
    found = {"model": name, "dtype": options.dtype, "float32_relative_difference": difference}
    path = write_results("tree_step", rows, **found)
    print(f"{table(rows)}\nwrote {path}")


if __name__ == "__main__":
    main()
