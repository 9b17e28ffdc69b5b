"""A picture of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2t_ext.distillation.training_state import METRICS_NAME
from s2t_ext.runs.statistics import wilson


def plot_metrics(run: str | Path) -> Path:
    """Draws a run's losses and what its held-out part gets into `metrics.png`; returns the path.

    Raises:
        ImportError: without matplotlib (`pip install s2t_ext[plot]`).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    run = Path(run)
    lines = [json.loads(line) for line in (run / METRICS_NAME).read_text().splitlines()]
    steps = [line for line in lines if "loss_groups" in line]
    measured = [line for line in lines if "held_out" in line and not line.get("settled")]
    tokens = [line for line in lines if "held_out_tokens" in line]
    saved = next((line for line in reversed(lines) if line.get("settled")), None)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name in [key for key in steps[0] if key.startswith("loss_")] if steps else []:
        if any(s[name] for s in steps):
            left.plot([s["step"] for s in steps], [s[name] for s in steps], label=name)
    left.set_xlabel("optimiser step")
    left.set_yscale("symlog", linthresh=1e-3)
    left.legend()
    if measured:
        for name in ("agreement", "score_agreement", "student_agreement"):
            values = [m["held_out"][name] for m in measured]
            right.plot([m["step"] for m in measured], values, marker="o", label=name)
        if saved is not None:
            _draw_saved(right, saved)
        right.set_ylabel("share of the held-out groups")
    else:
        for name in ("teacher_kl", "nll"):
            found = [t for t in tokens if t["held_out_tokens"][name] is not None]
            values = [t["held_out_tokens"][name] for t in found]
            right.plot([t["step"] for t in found], values, marker="o", label=name)
        right.set_ylabel("nats per held-out token")
    right.set_xlabel("optimiser step")
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # half a step is none
    figure.tight_layout()
    path = run / "metrics.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _draw_saved(axes: Any, line: dict[str, Any]) -> None:
    """The agreement of the selector as it was saved, after its prior weight was chosen: the number
    that the card prints, with the same interval.
    """
    quality = line["held_out"]
    groups = quality["groups"]
    if not groups:
        return
    share = wilson(round(quality["agreement"] * groups), groups)
    axes.errorbar(
        [line["step"]],
        [share.value],
        yerr=[[share.value - share.low], [share.high - share.value]],
        fmt="*",
        markersize=12,
        capsize=4,
        color="black",
        label=f"agreement as saved, 95 % interval ({groups} groups)",
    )
