"""What Select-to-Think costs inside vLLM, per engine step.

    python bench/bench_vllm.py MODEL --requests 1 8 --tokens 40 --rounds 5

In an environment with vLLM (see .ci/vllm). One engine, bfloat16, no graphs, prompts of random
tokens, K = 8. Every round runs each case once, in turn, and ratios are taken inside the round: the
worker with `"s2t": "off"`, with trigger "never", with random triggers of 1, 5 and 20 %, and with
"always". The prefill is measured by a request for one token and subtracted. Forward passes and
rows are counted over all rounds: of the whole engine, and those of look-ahead alone. Written to
`bench/results/`.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from harness import write_results
from transformers import AutoConfig
from vllm import LLM, SamplingParams

import s2t_ext

PROMPT_TOKENS = 200
CASES = {
    "off": {"s2t": "off"},
    "never": {"s2t_trigger": "never"},
    **{
        f"{rate} %": {"s2t_trigger": "random", "s2t_threshold": rate / 100, "s2t_warmup_steps": 0}
        for rate in (1, 5, 20)
    },
    "always": {"s2t_trigger": "always", "s2t_warmup_steps": 0},
}


class Bench:
    """One engine and its counters."""

    def __init__(self, model, folder):
        config = AutoConfig.from_pretrained(model).get_text_config(decoder=True)
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(16, config.hidden_size, generator=generator) * 0.02
        never = s2t_ext.S2TConfig(trigger="never")
        s2t_ext.Selector(rows, decoding=never).save_pretrained(folder)
        self.vocabulary = config.vocab_size
        self.llm = LLM(
            model,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            worker_cls="s2t_ext.vllm.Worker",
            additional_config={"s2t": {"selector": folder}},
        )
        self.forwards = 0
        core = self.llm.llm_engine.engine_core.engine_core
        runner = core.model_executor.driver_worker.worker.model_runner
        runner.model.register_forward_pre_hook(self._count)
        self.runner = type(runner).__mro__[1].__name__

    def _count(self, *_):
        self.forwards += 1

    def seconds(self, prompts, tokens, options):
        """Of generating so many tokens for all prompts together."""
        parameters = [
            SamplingParams(
                temperature=0,
                max_tokens=tokens,
                ignore_eos=True,
                detokenize=False,
                seed=seed,
                extra_args=options,
            )
            for seed in range(len(prompts))
        ]
        start = time.perf_counter()
        self.llm.generate(prompts, parameters, use_tqdm=False)
        return time.perf_counter() - start

    def counts(self):
        """Forward passes of the engine, and of look-ahead alone, with rows."""
        total = self.llm.collective_rpc("s2t_statistics")[0]["total"]
        names = ("steps", "triggers", "forwards", "rows")
        return {"engine_forwards": self.forwards, **{name: total[name] for name in names}}


def measure(bench, requests, tokens, rounds):
    """One row per case."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(200, bench.vocabulary - 200, (requests, PROMPT_TOKENS), generator=generator)
    prompts = [{"prompt_token_ids": row.tolist()} for row in ids]
    bench.seconds(prompts, 2, CASES["always"])  # whatever is made at first use
    times = {name: [] for name in CASES}
    counts = {name: dict.fromkeys(bench.counts(), 0) for name in CASES}
    for _ in range(rounds):
        for name, options in CASES.items():
            prefill = bench.seconds(prompts, 1, options)
            before = bench.counts()
            whole = bench.seconds(prompts, tokens + 1, options)
            after = bench.counts()
            times[name].append((whole - prefill) / tokens * 1e3)
            for key in after:
                counts[name][key] += after[key] - before[key]
    rows = []
    for name, mine in times.items():
        ratios = [a / b for a, b in zip(mine, times["off"], strict=True)]
        rows.append(
            {
                "case": name,
                "requests": requests,
                "ms_per_step": [statistics.median(mine), min(mine), max(mine)],
                "ratio_to_off": [statistics.median(ratios), min(ratios), max(ratios)],
                **counts[name],
            }
        )
        print(rows[-1], flush=True)
    return rows


def main():
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.model, folder)
        rows = []
        for requests in arguments.requests:
            rows += measure(bench, requests, arguments.tokens, arguments.rounds)
    name = os.path.basename(arguments.model.rstrip("/"))
    path = write_results("vllm", rows, model=name, runner=bench.runner, tokens=arguments.tokens)
    print(path)


if __name__ == "__main__":
    main()
