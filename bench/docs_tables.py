"""Writes the tables of `docs/results.md` from `bench/results/` and `bench/studies/`.

    python bench/docs_tables.py

No figure is typed by hand: each row carries the spread between rounds and the command that makes
it, and each group the machine it was measured on.
"""

import collections
import itertools
import json
import lzma
import re
from pathlib import Path

import distilled_tasks_table

BENCH = Path(__file__).resolve().parent
STUDIES = BENCH / "studies"
PAGE = BENCH.parent / "docs" / "results.md"


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
    if result := newest("batch"):
        rows = {row["implementation"]: row for row in result["rows"]}
        row, padded = rows["ragged"], rows["padded"]
        lines.append(
            f"| {row['case']} | {row['ms_per_step']:.0f} ms per step | "
            f"{row['ratio_to_greedy']:.2f} x the time ({row['ratio_low']:.2f} to "
            f"{row['ratio_high']:.2f}); with K tokens for every row "
            f"{padded['ratio_to_greedy']:.2f} x | `model.generate`, greedy; "
            f"`bench/bench_batch.py`, {machine('batch')} |"
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
            f"teacher ({row['teacher_ms']:.0f} ms); `bench/bench_teacher.py`, "
            f"{machine('teacher')} |"
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
    return "" if result is None else machine_of(result)


def machine_of(result):
    """The same, of a result."""
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
            f"Decoding ({machine('generate')}; `S2T_EXT_BENCH_MODEL=MODEL pytest "
            "bench/bench_generate.py`; spread: lowest and "
            "highest round):",
            "\n".join([header, *decoding]),
        ]
    return "\n\n".join(blocks)


def growth_tables():
    """What decoding costs as one thing grows at a time, a table for each model measured."""
    files = sorted((BENCH / "results").glob("growth-[0-9]*.json"))
    by_model = {r["model"]: r for r in (json.loads(file.read_text()) for file in files)}
    blocks = []
    for result in by_model.values():
        lines = [
            "| prefix | batch | K | choices at | ms a step | beside `model.generate` |",
            "|---|---|---|---|---|---|",
        ]
        for row in result["rows"]:
            ratio = f"{row['ratio']:.2f} x ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
            lines.append(
                f"| {row['prefix']} | {row['batch']} | {row['k']} | {row['trigger_rate']:.0%} | "
                f"{row['s2t_ms_per_step']:.0f} | {ratio} |"
            )
        blocks += [
            f"How it grows, one thing at a time ({machine_of(result)}; `python "
            f"bench/bench_growth.py MODEL`; {result['tokens']} tokens after the prefix, which is "
            "in the time; spread: lowest and highest round):",
            "\n".join(lines),
        ]
    return "\n\n".join(blocks)


def answers(policy):
    """key -> (group, correct) of the answers of one policy."""
    path = STUDIES / "gsm_symbolic" / "answers" / f"{policy}.jsonl.xz"
    with lzma.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    return {row["key"]: (row["group"], int(row["correct"])) for row in rows}


def template_p(policy, baseline="greedy"):
    """Two-sided p-value of the exact sign-flip test over templates.

    Problems of one template succeed and fail together, so the templates are the units: the sum of
    the differences is compared with the sums that all choices of signs of the templates give.
    """
    ours, theirs = answers(policy), answers(baseline)
    gains = collections.Counter()
    for key, (group, correct) in ours.items():
        gains[group] += correct - theirs[key][1]
    gains = [gain for gain in gains.values() if gain]
    observed = abs(sum(gains))
    flipped = [
        abs(sum(sign * gain for sign, gain in zip(signs, gains, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    return sum(value >= observed for value in flipped) / len(flipped)


def evaluation_table():
    """Accuracy and cost of every policy of the study in `bench/studies/gsm_symbolic`."""
    summary = json.loads((STUDIES / "gsm_symbolic" / "summary.json").read_text())
    against = {c["first"]: c for c in summary["comparisons"] if c["second"] == "greedy"}
    lines = [
        "| policy | correct | accuracy (95 %) | wins / losses against greedy | p, templates as "
        "units | tokens | steps with a choice | tokens changed | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in summary["policies"].items():
        interval = row["accuracy"]
        paired = p = ""
        if name in against:
            paired = "{wins} / {losses}".format(**against[name])
            p = f"{template_p(name):.2g}"
        lines.append(
            f"| `{name}` | {row['correct']} of {row['problems']} | {interval['value']:.2f} "
            f"({interval['low']:.2f} to {interval['high']:.2f}) | {paired} | {p} | "
            f"{row['tokens']:.0f} | {row['trigger_rate']:.1%} | {row['change_rate']:.1%} | "
            f"{row['seconds']:.1f} |"
        )
    return "\n".join(lines)


def sufficiency_table():
    """How often the teacher's token is among the student's k best, where they differ most."""
    report = json.loads((STUDIES / "sufficiency" / "report.json").read_text())
    ranks = (1, 2, 4, 8, 16)
    lines = [
        "| steps | " + " | ".join(f"hit@{k}" for k in ranks) + " |",
        "|---" * (len(ranks) + 1) + "|",
    ]
    for share, row in report["hit"]["kl"].items():
        cells = ["{value:.3f} ({low:.3f} to {high:.3f})".format(**row[f"hit@{k}"]) for k in ranks]
        lines.append(f"| top {float(share):.0%} by KL | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def distillation_line():
    """One sentence on packed training."""
    result = newest("distill")
    if result is None:
        return ""
    row = result["rows"][0]
    return (
        f"Training on packed trajectories takes {row['ratio']:.0f} x less time per group than K "
        f"copies of the prefix ({row['ratio_low']:.0f} to {row['ratio_high']:.0f}): "
        f"{row['packed_tokens_per_group']:.0f} tokens instead of "
        f"{row['unpacked_tokens_per_group']:.0f}; peak memory is {row['peak_gib_packed']:.1f} GiB "
        f"for all groups at once, instead of {row['peak_gib_after_unpacked']:.1f} for one "
        f"({result['model']}, LoRA, "
        f"{row['case']}; `python bench/bench_distill.py MODEL`; {machine('distill')})."
    )


def main():
    """Replaces what stands between the markers."""
    text = PAGE.read_text("utf-8")
    blocks = {
        "results": table(),
        "growth": growth_tables(),
        "evaluation": evaluation_table(),
        "sufficiency": sufficiency_table(),
        "distillation": distillation_line(),
        "distilled tasks": distilled_tasks_table.table(),
    }
    for name, content in blocks.items():
        pattern = rf"<!-- {name} -->.*?<!-- /{name} -->"
        block = f"<!-- {name} -->\n{content}\n<!-- /{name} -->"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
