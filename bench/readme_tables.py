"""Writes the README's table of results from the newest files in `bench/results/`.

    python bench/readme_tables.py

No figure is typed by hand: each row carries the spread between rounds and the command that makes
    it, and
each group the machine it was measured on.
"""

import json
import re
from pathlib import Path

BENCH = Path(__file__).resolve().parent
README = BENCH.parent / "README.md"


def newest(name):
    """The latest result of a benchmark, or None."""
    files = sorted((BENCH / "results").glob(f"{name}-[0-9]*.json"))
    return json.loads(files[-1].read_text()) if files else None


def operator_rows(name, label):
    """Lines for one operator: ours against each baseline, per case of batch 1."""
    result = newest(name)
    if result is None:
        return []
    lines = []
    cases = {row["case"] for row in result["rows"] if row["case"].startswith("batch 1,")}
    for case in sorted(cases):  # the other batch sizes stay in the file
        rows = {row["implementation"]: row for row in result["rows"] if row["case"] == case}
        ours = rows.pop("s2t_ext")
        for other, row in rows.items():
            ratio = {
                key: row["microseconds"][key] / ours["microseconds"][key]
                for key in ("median", "p20", "p80")
            }
            measured = ours.get(f"speed_up_over_{other}", ratio)
            lines.append(
                f"| `{label}`, {case} | {ours['microseconds']['median']:.0f} us | "
                f"{measured['median']:.1f} x faster ({measured['p20']:.1f} to "
                f"{measured['p80']:.1f}) | {other} |"
            )
    return lines


def decoding_rows():
    """Lines for whole decoding, one triggered step, and memory."""
    lines = []
    rates = {
        "never": "no choices",
        "1 %": "choices at 1 % of steps",
        "10 %": "choices at 10 % of steps",
        "always": "a choice at every step",
    }
    if result := newest("generate"):
        for row in result["rows"]:
            if row["implementation"] == "greedy":
                continue
            lines.append(
                f"| decoding, {rates[row['implementation']]} | "
                f"{row['ms_per_token']:.0f} ms per token | "
                f"{row['ratio_to_greedy']:.2f} x the time ({row['ratio_low']:.2f} to "
                f"{row['ratio_high']:.2f}) | "
                "`model.generate`, greedy |"
            )
    if result := newest("triggered_step"):
        row = result["rows"][0]
        lines.append(
            f"| {row['case']} | {row['tree_ms']:.0f} ms | {row['speed_up']:.0f} x faster "
            f"({row['speed_up_low']:.0f} to {row['speed_up_high']:.0f}) | recomputing the "
            "prefix per candidate |"
        )
    if result := newest("teacher"):
        row = result["rows"][0]
        lines.append(
            f"| {row['case']} | {row['s2t_ms']:.0f} ms per token | "
            f"{row['ratio_to_both_steps']:.2f} x the time ({row['ratio_low']:.2f} to "
            f"{row['ratio_high']:.2f}) | `generate` of student ({row['student_ms']:.0f} ms) plus "
            f"teacher ({row['teacher_ms']:.0f} ms); `bench/bench_teacher.py` |"
        )
    if result := newest("memory"):
        row = result["rows"][0]
        lines.append(
            f"| {row['case']}, choices at every step | {row['always_mib']:.0f} MiB | "
            f"{row['ratio']:.3f} x "
            f"({row['ratio_low']:.3f} to {row['ratio_high']:.3f}) | `model.generate`, greedy |"
        )
    return lines


def machine(name):
    """One line on where a benchmark ran."""
    result = newest(name)
    if result is None:
        return ""
    found = result["environment"]
    model = f", {result['model']} in {result['dtype']}" if "model" in result else ""
    return (
        f"{found['processor']}, {found['cores']} cores, {found['instruction_set']}, torch "
        f"{found['torch']}{model}, "
        f"commit {found['commit'][:9]}, {found['date'][:10]}"
    )


def table():
    """The whole block, as Markdown."""
    header = "| | here | median (spread of rounds) | beside |\n|---|---|---|---|"
    operators = operator_rows("propose_candidates", "propose_candidates") + operator_rows(
        "score_and_select", "score_and_select"
    )
    blocks = []
    if operators:
        blocks += [
            f"Operators ({machine('propose_candidates')}; `pytest "
            "bench/bench_propose_candidates.py "
            "bench/bench_score_and_select.py`; spread: 20th to 80th percentile):",
            "\n".join([header, *operators]),
        ]
    if decoding := decoding_rows():
        blocks += [
            f"Decoding ({machine('generate')}; `S2T_BENCH_MODEL=MODEL pytest "
            "bench/bench_generate.py`; spread: lowest and "
            "highest round):",
            "\n".join([header, *decoding]),
        ]
    return "\n\n".join(blocks)


def main():
    """Replaces what stands between the markers."""
    text = README.read_text("utf-8")
    pattern = r"<!-- results -->.*?<!-- /results -->"
    block = f"<!-- results -->\n{table()}\n<!-- /results -->"
    README.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main()
