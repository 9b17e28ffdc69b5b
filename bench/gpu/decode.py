"""Whole decoding with randomly drawn models of real shapes: what choices cost beside `generate`.

    python bench/gpu/decode.py [--device cuda]

Per shape, batch, prefix and cache: transformers' greedy decoding, and ours with the trigger never,
at 1, 5 and 20 % of the steps, and always. The rates are quantiles of the entropies that the same
prompt meets. Runs take turns; milliseconds per token are the median over rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import put, synchronize
from transformers import Qwen2Config, Qwen2ForCausalLM

import s2t_ext
from s2t_ext import S2TConfig, Selector

FILE = "decode.jsonl"
SHAPES = {
    "0.5B": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24),
    "1.5B": dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2),
}
HEADS = {"0.5B": (14, 2), "1.5B": (12, 2), "tiny": (4, 2)}
RATES = {"never": 0.0, "1 %": 0.01, "5 %": 0.05, "20 %": 0.2, "always": 1.0}
GPU_CASES = ((1, 256), (1, 8000), (32, 256), (32, 4000))  # batch, prefix
#: A static cache is allocated whole.
LONGEST_STATIC = 4000


def drawn_model(shape: str, device: str) -> Qwen2ForCausalLM:
    """Weights drawn on the device, bfloat16; no end token, so that every run has its length."""
    query_heads, key_heads = HEADS[shape]
    config = Qwen2Config(
        vocab_size=151_936 if shape != "tiny" else 512,
        max_position_embeddings=16_384,
        num_attention_heads=query_heads,
        num_key_value_heads=key_heads,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
        **SHAPES[shape],
    )
    config.eos_token_id = config.pad_token_id = config.bos_token_id = None
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM(config).to(torch.bfloat16).eval()


def configurations(model: Any, selector: Selector, options: dict[str, Any]) -> dict[str, S2TConfig]:
    """One per rate, thresholds from the entropies of a run without choices."""
    look = S2TConfig(k=8, trigger="entropy", threshold=1e9, warmup_steps=0)
    output = s2t_ext.generate(
        model, s2t=look, selector=selector, seed=1, return_dict_in_generate=True, **options
    )
    seen = torch.tensor([value for row in output.s2t.rows for value in row.statistics])
    found = {}
    for name, rate in RATES.items():
        if name in ("never", "always"):
            found[name] = S2TConfig(k=8, trigger=name, warmup_steps=0)
        else:
            threshold = float(seen.quantile(1 - rate))
            found[name] = S2TConfig(k=8, trigger="entropy", threshold=threshold, warmup_steps=0)
    return found


def runs(model: Any, selector: Selector, options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Name -> one generation."""
    calls: dict[str, Callable[[], Any]] = {"greedy": lambda: model.generate(**options)}
    for name, config in configurations(model, selector, options).items():
        calls[name] = lambda config=config: s2t_ext.generate(
            model, s2t=config, selector=selector, seed=1, **options
        )
    return calls


def measure(calls: dict[str, Callable[[], Any]], tokens: int, device: str) -> dict[str, Any]:
    """Milliseconds per token of each; one that fails says so."""
    row: dict[str, Any] = {}
    for name in list(calls):
        try:
            for _ in range(2):  # compilation and graphs are settled after two
                calls[name]()
        except Exception as error:
            row[f"{name} error"] = f"{type(error).__name__}: {error}"[:160]
            del calls[name]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            times[name].append((time.perf_counter() - start) * 1e3 / tokens)
    return {**row, **{name: round(statistics.median(t), 3) for name, t in times.items()}}


def main() -> None:
    """Every shape and case; each is one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    real = device == "cuda"
    for shape in ("0.5B", "1.5B") if real else ("tiny",):
        model = drawn_model(shape, device)
        selector = Selector(torch.randn(16, model.config.hidden_size) * 0.05)
        for batch, prefix in GPU_CASES if real else ((2, 16),):
            ids = torch.randint(10, model.config.vocab_size - 10, (batch, prefix), device=device)
            tokens = 96 if real else 8
            options = dict(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
            for cache in ("dynamic", "static") if prefix <= LONGEST_STATIC else ("dynamic",):
                chosen = (
                    options if cache == "dynamic" else {**options, "cache_implementation": cache}
                )
                if real:
                    torch.cuda.reset_peak_memory_stats()
                row = measure(runs(model, selector, chosen), tokens, device)
                if real:
                    row["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
                put(FILE, shape=shape, batch=batch, prefix=prefix, cache=cache, **row)


if __name__ == "__main__":
    main()
