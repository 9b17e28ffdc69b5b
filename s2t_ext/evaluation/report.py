"""The summary of an evaluation: numbers, a table, a picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from s2t_ext.runs.run_folder import RunFolder
from s2t_ext.runs.statistics import cluster_mean, cluster_sums, compare, mcnemar_power, wilson

#: What is summed over problems, and given per problem.
COSTS = (
    "tokens",
    "forward_passes",
    "tokens_through_model",
    "teacher_forward_passes",
    "seconds",
)


def summarize(results: dict[str, list[dict[str, Any]]], *, seed: int = 0) -> dict[str, Any]:
    """Summary of the results of policies; pairs are compared on the problems both have answered.

    Returns:
        policies: name -> problems, correct, accuracy (Wilson interval), cluster_accuracy (bootstrap
        interval over templates), the mean of every cost per
        problem, trigger_rate and change_rate of the steps, truncated and
        ended_by_choice shares of the paths, and
        `tasks`, the same per task. comparisons: for each pair of policies, wins, losses, ties,
        p_value of McNemar's exact test, the difference with a bootstrap interval, the same of the
        templates (cluster_p_value, cluster_difference).
    """
    policies = {}
    for name, rows in results.items():
        tasks = sorted({row["task"] for row in rows})
        policies[name] = _entry(rows)
        if len(tasks) > 1:
            policies[name]["tasks"] = {
                task: _entry([row for row in rows if row["task"] == task]) for task in tasks
            }
    comparisons = []
    for first, second in itertools.combinations(results, 2):
        ours, theirs = (
            {row["key"]: bool(row["correct"]) for row in results[name]} for name in (second, first)
        )
        shared = [key for key in ours if key in theirs]
        if shared:
            own, other = ([side[key] for key in shared] for side in (ours, theirs))
            template = {row["key"]: row.get("group", "") for row in results[first]}
            groups = [template[key] for key in shared]
            found = compare(own, other, groups, seed=seed).to_dict()
            comparisons.append({"first": second, "second": first, **found})
    return {"policies": policies, "comparisons": comparisons}


def _entry(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    count, correct = len(rows), sum(row["correct"] for row in rows)
    steps, paths = sum(row["steps"] for row in rows), sum(len(row["texts"]) for row in rows)
    return {
        "problems": count,
        "correct": correct,
        "accuracy": wilson(correct, count).to_dict(),
        "cluster_accuracy": _cluster_accuracy(rows),
        **{name: sum(row[name] for row in rows) / count for name in COSTS},
        "teacher_steps": sum(row.get("teacher_steps", 0) for row in rows) / count,
        "trigger_rate": sum(row["triggers"] for row in rows) / max(1, steps),
        "change_rate": sum(row["changed"] for row in rows) / max(1, steps),
        "ended_by_choice": sum(row.get("ended_by_choice", 0) for row in rows) / max(1, paths),
        "truncated": sum(row["truncated"] for row in rows) / max(1, paths),
    }


def _cluster_accuracy(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The accuracy with a bootstrap interval over templates, and their number."""
    right = [int(row["correct"]) for row in rows]
    sums = cluster_sums(right, [row.get("group", "") for row in rows])
    return {**cluster_mean(sums).to_dict(), "clusters": len(sums)}


def interval_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The accuracy with its interval: over templates where problems share one, else Wilson's."""
    whole: dict[str, Any] = entry["cluster_accuracy"]
    shares = whole["clusters"] < entry["problems"]
    found: dict[str, Any] = whole if shares else entry["accuracy"]
    return found


def markdown(summary: dict[str, Any]) -> str:
    """The summary as Markdown tables."""
    lines = [
        "| policy | accuracy (95 %) | correct | tokens | passes | tokens through model | "
        "teacher passes | teacher asked | triggered | changed | ended by a choice | cut off | "
        "seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(name, entry) for name, entry in summary["policies"].items()]
    tasks = [
        (name, task, entry)
        for name, whole in summary["policies"].items()
        for task, entry in whole.get("tasks", {}).items()
    ]
    if any(e["cluster_accuracy"]["clusters"] < e["problems"] for e in summary["policies"].values()):
        lines += ["", "| policy | accuracy over templates (95 %) | templates |", "|---|---|---|"]
        for name, entry in summary["policies"].items():
            whole = entry["cluster_accuracy"]
            lines.append(f"| {name} | {_interval(whole)} | {whole['clusters']} |")
    if tasks:
        lines += ["", "| task | policy | accuracy (95 %) | correct |", "|---|---|---|---|"]
    for name, task, entry in sorted(tasks, key=lambda row: row[1]):
        lines.append(f"| {task} | {name} | {_accuracy(entry)} | {_correct(entry)} |")
    if summary["comparisons"]:
        lines += [
            "",
            "| comparison | wins | losses | ties | difference (95 %) | McNemar p | "
            "difference over templates (95 %) | templates | template p |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
    for pair in summary["comparisons"]:
        gap, whole = (_gap(pair[name]) for name in ("difference", "cluster_difference"))
        lines.append(
            f"| {pair['first']} against {pair['second']} | {pair['wins']} | {pair['losses']} | "
            f"{pair['ties']} | {gap} | {pair['p_value']:.3f} | {whole} | {pair['clusters']} | "
            f"{pair['cluster_p_value']:.3f} |"
        )
    if summary["comparisons"]:
        lines += ["", _power(summary["comparisons"])]
    lines += [
        "",
        "Tokens, passes and seconds are means per problem; passes of a batch are shared. Teacher "
        "asked: steps of a problem at which it was, its passes if the problem were decoded alone.",
    ]
    return "\n".join(lines) + "\n"


def _power(comparisons: Sequence[dict[str, Any]]) -> str:
    """What the smallest comparison could have found."""
    problems = min(pair["wins"] + pair["losses"] + pair["ties"] for pair in comparisons)
    return (
        f"With {problems} independent problems, McNemar's test at 5 % finds a true gain of 8 "
        f"points (12 % won, 4 % lost) with probability {mcnemar_power(problems, 0.12, 0.04):.2f}; "
        "problems of one template are not independent, which the template columns allow for."
    )


def _gap(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]"


def _line(name: str, entry: dict[str, Any]) -> str:
    return (
        f"| {name} | {_accuracy(entry)} | {_correct(entry)} | {entry['tokens']:.0f} | "
        f"{entry['forward_passes']:.1f} | {entry['tokens_through_model']:.0f} | "
        f"{entry['teacher_forward_passes']:.1f} | {entry['teacher_steps']:.0f} | "
        f"{entry['trigger_rate']:.1%} | "
        f"{entry['change_rate']:.1%} | {entry['ended_by_choice']:.1%} | "
        f"{entry['truncated']:.1%} | {entry['seconds']:.1f} |"
    )


def _accuracy(entry: dict[str, Any]) -> str:
    return _interval(entry["accuracy"])


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _correct(entry: dict[str, Any]) -> str:
    return f"{entry['correct']}/{entry['problems']}"


#: Height of a line and width of a long name on the plot, points.
_LINE, _NAME_WIDTH = 10, 80


def write_reports(run: RunFolder, summary: dict[str, Any]) -> None:
    """Writes summary.json, summary.md and, where matplotlib is installed, accuracy.png."""
    run.write("summary.json", summary)
    run.write("summary.md", markdown(summary))
    if not summary["policies"]:
        return  # interrupted before the first answer: there is nothing to draw
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for ax, cost, label in (
        (axes[0], "seconds", "seconds per problem"),
        (axes[1], "tokens", "tokens written per problem"),
    ):
        for entry in summary["policies"].values():
            accuracy = entry["accuracy"]
            value = accuracy["value"]
            bars = [[value - accuracy["low"]], [accuracy["high"] - value]]
            ax.errorbar([entry[cost]], [value], yerr=bars, marker="o", capsize=3)
        ax.set(xlabel=label, xscale=_scale([e[cost] for e in summary["policies"].values()]))
        ax.margins(x=0.2)
        places = {n: (e[cost], e["accuracy"]["value"]) for n, e in summary["policies"].items()}
        for name, lines in label_heights(ax, places).items():
            at = (5, 4 + _LINE * lines)
            ax.annotate(name, places[name], xytext=at, textcoords="offset points", fontsize=8)
    axes[0].set_ylabel("accuracy, 95 % interval")
    figure.tight_layout()
    figure.savefig(run.folder / "accuracy.png", dpi=120)
    plt.close(figure)


def _scale(values: list[float]) -> str:
    """Of an axis: within a decade, the ticks of a logarithmic one overlap."""
    return "log" if min(values) > 0 and max(values) >= 10 * min(values) else "linear"


def label_heights(axes: Any, places: Mapping[str, tuple[float, float]]) -> dict[str, int]:
    """How many lines above its point each name stands, so that no two names overlap.

    Args:
        axes: Everything else is drawn in it.
        places: Point of each name, in the axes' units.
    """
    axes.autoscale_view()
    points = 72 / axes.figure.dpi  # of a pixel
    taken: list[tuple[float, float]] = []
    heights = {}
    for name in sorted(places, key=lambda name: (places[name][1], name)):
        x, y = (points * value for value in axes.transData.transform(places[name]))
        line = 0
        while any(abs(x - u) < _NAME_WIDTH and abs(y + _LINE * line - v) < _LINE for u, v in taken):
            line += 1
        taken.append((x, y + _LINE * line))
        heights[name] = line
    return heights
