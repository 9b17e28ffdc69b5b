"""The frontier as a table and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2t_ext.evaluation.report import interval_of
from s2t_ext.runs.files import write_atomically

#: Axes of the picture: what is paid, and its name.
COSTS = (
    ("teacher_steps", "steps per problem that ask the teacher"),
    ("tokens_through_model", "student's tokens per problem"),
    ("seconds", "seconds per problem"),
)


def frontier_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per policy, the points sorted by trigger and rate after the others.

    Returns:
        policy, chooser, trigger, rate, threshold (None for those beside), trigger_rate (measured),
        accuracy with its interval, the costs, and wins, losses and p_value (over templates) against
        greedy, where it was evaluated.
    """
    points = summary["points"]
    against = {}
    for pair in summary["comparisons"]:
        wins, losses, p_value = pair["wins"], pair["losses"], pair["cluster_p_value"]
        if pair["second"] == "greedy":
            against[pair["first"]] = dict(wins=wins, losses=losses, p_value=p_value)
        elif pair["first"] == "greedy":
            against[pair["second"]] = dict(wins=losses, losses=wins, p_value=p_value)
    rows = []
    for name, entry in summary["policies"].items():
        point = points.get(name) or dict.fromkeys(("chooser", "trigger", "rate", "threshold"))
        costs = {cost: entry[cost] for cost, _ in COSTS}
        rows.append(
            {
                **dict(policy=name, **point, trigger_rate=entry["trigger_rate"]),
                **dict(accuracy=interval_of(entry), **costs, **against.get(name, {})),
            }
        )
    return sorted(rows, key=lambda r: (r["chooser"] or "", r["trigger"] or "", r["rate"] or 0))


def frontier_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| policy | threshold | triggered | accuracy (95 %) | teacher asked | tokens through "
        "model | seconds | won / lost against greedy | template p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = row["accuracy"]
        threshold = "" if row["threshold"] is None else f"{row['threshold']:.4g}"
        pair = f"{row['wins']} / {row['losses']} | {row['p_value']:.3f}" if "wins" in row else "|"
        lines.append(
            f"| {row['policy']} | {threshold} | {row['trigger_rate']:.1%} | "
            f"{accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}] | "
            f"{row['teacher_steps']:.0f} | {row['tokens_through_model']:.0f} | "
            f"{row['seconds']:.1f} | {pair} |"
        )
    lines += [
        "",
        "Costs are means per problem. Teacher asked: steps at which it was, its forward passes if "
        "the problem were decoded alone.",
    ]
    return "\n".join(lines) + "\n"


def write_frontier(folder: Path, summary: dict[str, Any]) -> None:
    """Writes frontier.json, frontier.md and, where matplotlib is installed, frontier.png."""
    rows = frontier_rows(summary)
    write_atomically(folder / "frontier.json", json.dumps(rows, indent=2) + "\n")
    write_atomically(folder / "frontier.md", frontier_markdown(rows))
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    costs = [cost for cost in COSTS if any(row[cost[0]] > 0 for row in rows)]
    figure, _ = plt.subplots(1, len(costs), figsize=(5 * len(costs), 4.5), sharey=True)
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        label = f"{row['chooser']}, {row['trigger']}" if row["chooser"] else row["policy"]
        lines.setdefault(label, []).append(row)
    offset: dict[str, Any] = dict(xytext=(4, 4), textcoords="offset points", fontsize=8)
    for ax, (cost, label) in zip(figure.axes, costs, strict=True):
        for line, its_rows in lines.items():
            values = [row["accuracy"]["value"] for row in its_rows]
            bars = [
                [
                    value - row["accuracy"]["low"]
                    for value, row in zip(values, its_rows, strict=True)
                ],
                [
                    row["accuracy"]["high"] - value
                    for value, row in zip(values, its_rows, strict=True)
                ],
            ]
            at = [row[cost] for row in its_rows]
            ax.errorbar(at, values, yerr=bars, marker="o", capsize=3, label=line)
            for row, x, y in zip(its_rows, at, values, strict=True):
                if row["rate"] is not None:
                    ax.annotate(f"{row['rate']:.0%}", (x, y), **offset)
        ax.set_xlabel(label)
        ax.margins(x=0.1)
    figure.axes[0].set_ylabel("accuracy, 95 % interval")
    figure.axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "frontier.png", dpi=120)
    plt.close(figure)
