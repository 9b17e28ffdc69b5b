"""What Select-to-Think costs inside vLLM, per engine step, beside our loop in transformers.

    python bench/bench_vllm.py MODEL --requests 1 8 --tokens 40 --rounds 5
    python bench/bench_vllm.py MODEL --deferred --requests 8 --tokens 10 --rounds 1

In an environment with vLLM (see .ci/vllm). One engine without our worker and one with it, bfloat16,
no graphs, prompts of random tokens, K = 8. Every round runs each case once, in turn, with seeds of
its own, and ratios are taken inside the round: plain vLLM; the worker with `"s2t": "off"`, with
trigger "never", with random triggers of 1, 5 and 20 %, and with "always"; and `s2t_ext.generate`
with the same triggers on the same prompts. The prefill is measured by a request for one token and
subtracted. Steps per second are of all rounds together, since rounds differ where triggers are
rare. Forward passes and rows are counted over all rounds: of the whole engine with our worker, and
those of look-ahead alone. Set OMP_NUM_THREADS: engines and loop run in this process.

`--deferred` counts the same for deferred choices (V2 model runner, asynchronous scheduling). On a
CPU that runner is interpreted, so that its times say nothing and none are written; an ordinary run
on a GPU uses it anyway. Written to `bench/results/`.
"""

# ruff: noqa: E402 (the environment is set before vllm is imported)
import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def parse():
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deferred", action="store_true", help="count deferred choices")
    return parser.parse_args()


ARGUMENTS = parse()
if ARGUMENTS.deferred:  # before vllm looks at what there is
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests" / "support"))
    from vllm_engine import allow_asynchronous_scheduling, interpret_triton

    interpret_triton()
    allow_asynchronous_scheduling()

import torch
from harness import write_results
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import LLM, SamplingParams

import s2t_ext

TRIGGERS: dict[str, dict] = {
    "never": {"trigger": "never"},
    **{
        f"{r} %": {"trigger": "random", "threshold": r / 100, "warmup_steps": 0} for r in (1, 5, 20)
    },
    "always": {"trigger": "always", "warmup_steps": 0},
}
PLAIN = "plain vLLM"


class Engine:
    """One engine and its counters; without a selector it is plain vLLM."""

    def __init__(self, model, selector=None):
        ours = {
            "worker_cls": "s2t_ext.vllm.Worker",
            "additional_config": {"s2t": {"selector": selector}},
        }
        self.llm = LLM(
            model,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            gpu_memory_utilization=0.3,
            async_scheduling=ARGUMENTS.deferred or None,
            **(ours if selector else {}),
        )
        self.forwards = 0
        core = self.llm.llm_engine.engine_core.engine_core
        runner = core.model_executor.driver_worker.worker.model_runner
        runner.model.register_forward_pre_hook(self._count)
        self.runner = type(runner).__mro__[1 if selector else 0].__name__

    def _count(self, *_):
        self.forwards += 1

    def generate(self, ids, tokens, options, seeds):
        """So many tokens for all prompts together; `options` are the requests' own, and a seed
        each.
        """
        prompts = [{"prompt_token_ids": row} for row in ids.tolist()]
        parameters = [
            SamplingParams(
                temperature=0,
                max_tokens=tokens,
                ignore_eos=True,
                detokenize=False,
                seed=seed,
                extra_args=options,
            )
            for seed in seeds
        ]
        self.llm.generate(prompts, parameters, use_tqdm=False)

    def counts(self):
        """Forward passes of the engine, and of look-ahead alone, with rows."""
        total = self.llm.collective_rpc("s2t_statistics")[0]["total"]
        names = ("steps", "triggers", "forwards", "rows")
        return {"engine_forwards": self.forwards, **{name: total[name] for name in names}}


class Loop:
    """Our loop in transformers, with the same triggers, drawn by the same seeds."""

    def __init__(self, model, selector):
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.selector = s2t_ext.Selector.from_pretrained(selector).to(self.model.device)

    def generate(self, ids, tokens, options, seeds):
        """As `Engine.generate`."""
        ids = ids.to(self.model.device)
        s2t_ext.generate(
            self.model,
            ids,
            attention_mask=torch.ones_like(ids),
            s2t=s2t_ext.S2TConfig(**options),
            selector=self.selector,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            seed=list(seeds),
        )


def write_selector(model, folder):
    """A random selector for the model; returns the size of its vocabulary."""
    config = AutoConfig.from_pretrained(model).get_text_config(decoder=True)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(16, config.hidden_size, generator=generator) * 0.02
    never = s2t_ext.S2TConfig(trigger="never")
    s2t_ext.Selector(rows, decoding=never).save_pretrained(folder)
    return config.vocab_size


def make_cases(model, folder, counts_only):
    """Case -> what generates, and with which options; and the engine with our worker."""
    ours = Engine(model, folder)
    cases: dict = {}
    if not counts_only:
        cases[PLAIN] = (Engine(model), None)
    cases["off"] = (ours, {"s2t": "off"})
    for name, options in TRIGGERS.items():
        cases[name] = (ours, {f"s2t_{key}": value for key, value in options.items()})
    if not counts_only:
        loop = Loop(model, folder)
        cases |= {f"transformers, {name}": (loop, options) for name, options in TRIGGERS.items()}
    return cases, ours


def milliseconds(system, ids, tokens, options, seeds):
    """Of one call."""
    start = time.perf_counter()
    system.generate(ids, tokens, options, seeds)
    return (time.perf_counter() - start) * 1e3


def measure(cases, ours, ids, tokens, rounds):
    """One row per case."""
    for system, options in cases.values():
        system.generate(ids, 2, options, range(len(ids)))  # whatever is made at first use
    times = {name: [] for name in cases}
    counts = {name: dict.fromkeys(ours.counts(), 0) for name in cases}
    for number in range(rounds):
        seeds = range(number * len(ids), (number + 1) * len(ids))
        for name, (system, options) in cases.items():
            prefill = milliseconds(system, ids, 1, options, seeds)
            before = ours.counts()
            whole = milliseconds(system, ids, tokens + 1, options, seeds)
            after = ours.counts()
            times[name].append((whole - prefill) / tokens)
            for key in after:
                counts[name][key] += after[key] - before[key]
    rows = []
    for name, mine in times.items():
        rows.append({"case": name, "requests": len(ids)})
        if cases[name][0] is ours:
            rows[-1] |= counts[name]
        if PLAIN in cases:
            ratios = [a / b for a, b in zip(mine, times[PLAIN], strict=True)]
            rows[-1]["steps_per_second"] = 1e3 / statistics.mean(mine)
            rows[-1]["ms_per_step"] = [statistics.median(mine), min(mine), max(mine)]
            rows[-1]["ratio_to_plain"] = [statistics.median(ratios), min(ratios), max(ratios)]
        print(rows[-1], flush=True)
    return rows


def main(arguments):
    """Measures and writes."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = write_selector(arguments.model, folder)
        cases, ours = make_cases(arguments.model, folder, arguments.deferred)
        generator, rows = torch.Generator().manual_seed(1), []
        for requests in arguments.requests:
            shape = (requests, arguments.prompt_tokens)
            ids = torch.randint(200, vocabulary - 200, shape, generator=generator)
            rows += measure(cases, ours, ids, arguments.tokens, arguments.rounds)
    model = os.path.basename(arguments.model.rstrip("/"))
    name = "vllm_deferred" if arguments.deferred else "vllm"
    context = {key: getattr(arguments, key) for key in ("prompt_tokens", "tokens", "rounds")}
    print(write_results(name, rows, model=model, runner=ours.runner, **context))


if __name__ == "__main__":
    main(ARGUMENTS)
