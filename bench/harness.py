"""How every benchmark here measures and records: interleaved rounds, ratios inside a round, JSON.

Machines are noisy. So the implementations of a case run in turn, many rounds; a ratio is taken
between times of the same round; what is reported is the median over rounds, with the 20th and 80th
percentile.
"""

import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import torch
import transformers

import s2t_ext

BENCH = Path(__file__).resolve().parent
RESULTS = Path(os.environ.get("S2T_EXT_BENCH_RESULTS", BENCH / "results"))


def rounds_or(default):
    """How many rounds to measure, unless the environment says so."""
    return int(os.environ.get("S2T_EXT_BENCH_ROUNDS", default))


def interleaved(implementations, *, rounds=None, seconds=0.02, warmup=3):
    """Times callables in turn and compares each with each.

    Args:
        implementations: Name -> callable without arguments. Check that they agree before calling
            this.
        rounds: How often each is measured; 30 if the environment says nothing else.
        seconds: Time one measurement lasts, at least.
        warmup: Calls before the first round.

    Returns:
        One dictionary per name: microseconds per call (median, p20, p80 over rounds), and the
        speed-up over every implementation, `speed_up_over_<name>` (median, p20, p80 of the ratios
        of the same round; above 1 is faster).
    """
    calls = {name: _calls_for(run, seconds, warmup) for name, run in implementations.items()}
    times = {name: [] for name in implementations}
    rounds = rounds or rounds_or(30)
    for _ in range(rounds):
        for name, run in implementations.items():
            times[name].append(_microseconds(run, calls[name]))
    rows = []
    for name, mine in times.items():
        row = {"implementation": name, "microseconds": _spread(mine)}
        for other, theirs in times.items():
            ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
            row[f"speed_up_over_{other}"] = _spread(ratios)
        rows.append({**row, "rounds": rounds, "calls_per_round": calls[name]})
    return rows


def config_at_rate(rate, decode, k=8):
    """The configuration that makes choices at about this share of the steps.

    Args:
        rate: 0 never chooses, 1 always; in between, where the entropy is above its quantile.
        decode: Takes a configuration, decodes the prompts of the benchmark with it, and returns
            the output with its record.
        k: Candidates.
    """
    if rate in (0.0, 1.0):
        return s2t_ext.S2TConfig(k=k, trigger="always" if rate else "never", warmup_steps=0)
    look = s2t_ext.S2TConfig(k=k, trigger="entropy", threshold=1e9, warmup_steps=0)
    seen = torch.tensor([value for row in decode(look).s2t.rows for value in row.statistics])
    threshold = float(seen.quantile(1 - rate))
    return s2t_ext.S2TConfig(k=k, trigger="entropy", threshold=threshold, warmup_steps=0)


def write_results(name, rows, folder=None, **context):
    """Writes one immutable file per run and benchmark into `RESULTS`; returns its path.

    Args:
        name: Of the benchmark.
        rows: What it measured, a dictionary each.
        folder: Another folder that exists, for a trial.
        context: What else to say of the run.
    """
    found = environment()
    stamp = f"{found['date'][:19].replace(':', '')}-{found['commit'][:9]}"
    RESULTS.mkdir(exist_ok=True)
    path = Path(folder or RESULTS) / f"{name}-{stamp}.json"
    content = {"benchmark": name, **context, "environment": found, "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def peak_mib():
    """Peak resident size of this process, MiB.

    Not by getrusage: its peak begins with that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def environment():
    """Everything a figure depends on besides the code measured."""
    info = s2t_ext.info().as_dict()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "instruction_set": info.get("cpu", {}).get("used"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "s2t_ext": s2t_ext.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _calls_for(run, seconds, warmup):
    """How many calls last about `seconds`."""
    for _ in range(warmup):
        run()
    return max(1, round(seconds * 1e6 / _microseconds(run, 1)))


def _microseconds(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) * 1e6 / calls


def _spread(values):
    cuts = statistics.quantiles(values, n=5) if len(values) > 1 else [values[0]] * 4
    return {"median": statistics.median(values), "p20": cuts[0], "p80": cuts[3]}


def _git(*arguments):
    command = ["git", "-C", str(BENCH), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")
