"""Writes RUN/table.md from the JSON lines of a run of bench/gpu_day.py.

python bench/gpu/table.py RUN
"""

import json
import sys
from pathlib import Path
from typing import Any

RATES = ("greedy", "never", "1 %", "5 %", "20 %", "always")


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where it is missing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]


def table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Markdown."""
    ruled = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(ruled + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def time_of(row: dict[str, Any], state: str) -> str:
    """Median with its spread, or why there is none."""
    if "error" in row:
        return row["error"]
    if state not in row:
        return ""
    value = row[state]
    return str(value) if state == "eager" else "{median} ({p20} to {p80})".format(**value)


def facts(run: Path) -> str:
    """One line on the machine."""
    found = lines(run / "facts.jsonl")
    if not found:
        return "The machine is unknown: the stage `facts` did not end."
    fact = found[-1]
    return (
        f"{fact['device']}, torch {fact['torch']}, Python {fact['python']}. {fact['gpu']}".strip()
    )


def written(run: Path) -> str:
    """The whole page."""
    stages = table(
        ("stage", "status", "seconds"),
        [(s["stage"], s["status"], s["seconds"]) for s in lines(run / "stages.jsonl")],
    )
    kernels = table(
        ("what", "batch", "dtype", "bound (us)", "warm (us)", "cold (us)", "eager (us)"),
        [
            (
                row["what"],
                *(row.get(name, "") for name in ("batch", "dtype", "bound_us")),
                *(time_of(row, state) for state in ("warm", "cold", "eager")),
            )
            for row in lines(run / "kernels.jsonl")
            if row["what"] != "copy"
        ],
    )
    attention = table(
        ("attention", "back end", "batch", "prefix", "warm (us)", "cold (us)"),
        [
            (
                *(row[name] for name in ("what", "backend", "batch", "prefix")),
                *(time_of(row, state) for state in ("warm", "cold")),
            )
            for row in lines(run / "attention.jsonl")
        ],
    )
    decode = table(
        ("model", "batch", "prefix", "cache", *(f"{rate} (ms)" for rate in RATES), "peak GiB"),
        [
            (
                *(row[name] for name in ("shape", "batch", "prefix", "cache")),
                *(row.get(rate, row.get(f"{rate} error", "")) for rate in RATES),
                row.get("peak GiB", ""),
            )
            for row in lines(run / "decode.jsonl")
        ],
    )
    parts = ["# A day with a GPU", facts(run), "## Stages", stages, "## Kernels", kernels]
    parts += ["## Attention", attention, "## Milliseconds per decoding step", decode]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "table.md").write_text(written(folder), "utf-8")
    print(f"wrote {folder / 'table.md'}")
