"""Which of the compared policies to use, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from s2t_ext.runs.statistics import mcnemar_power

#: Share of false claims that a table of policies may make.
LEVEL = 0.05


def recommend(summary: dict[str, Any], own: Sequence[str] = ()) -> str:
    """Says which policy to use, from the summary of an evaluation.

    A policy is recommended instead of greedy decoding if it is right more often and the sign-flip
    test over templates says so at 5 %, divided by the number of policies tried (Bonferroni). Those
    that ask a teacher while they decode are judged apart, against what runs without one.

    Args:
        summary: See `s2t_ext.evaluation.report.summarize`.
        own: Policies whose teacher is the student itself with an adapter: they run without one.

    Returns:
        The sentence.
    """
    entries = summary["policies"]
    if "greedy" not in entries:
        return "Evaluate greedy too: without it there is no bar that a policy must clear."
    guided = [name for name in entries if asks_teacher(name) and name not in own]
    alone = [name for name in entries if name != "greedy" and name not in guided]
    best = _best(summary, alone, "greedy")
    if best is not None:
        pace = entries[best]["seconds"] / max(entries["greedy"]["seconds"], 1e-9)
        sentence = f"Use {best}: {_against(summary, best, 'greedy')}, at {pace:.1f} times its time"
    elif alone:
        closest = max(alone, key=lambda name: entries[name]["correct"])
        problems = entries["greedy"]["problems"]
        sentence = (
            f"Use greedy: nothing that runs without the teacher is shown to be better ({closest}: "
            f"{_against(summary, closest, 'greedy')}; of a true gain of 8 points {problems} "
            f"problems would tell with probability {mcnemar_power(problems, 0.12, 0.04):.2f})"
        )
    else:
        sentence = "Use greedy: no other policy that runs without the teacher was tried"
    helped = _best(summary, guided, best or "greedy")
    if helped is not None:
        asked = entries[helped]["teacher_steps"]
        sentence += (
            f"; with the teacher at hand use {helped}: "
            f"{_against(summary, helped, best or 'greedy')}, the teacher asked at {asked:.0f} "
            "steps a problem"
        )
    return sentence + "."


def asks_teacher(policy: str) -> bool:
    """Whether a policy of this name needs the teacher while it decodes."""
    return policy.partition("@")[0] in ("teacher", "takeover", "s2t")


def _best(summary: dict[str, Any], names: list[str], bar: str) -> str | None:
    """The most accurate policy that is shown to be better than another; the faster of equals."""
    entries = summary["policies"]
    better = []
    for name in names:
        wins, losses, p_value = _pair(summary, name, bar)
        if wins > losses and p_value < LEVEL / len(names):
            better.append(name)
    key = {name: (entries[name]["correct"], -entries[name]["seconds"]) for name in better}
    return max(better, key=lambda name: key[name], default=None)


def _against(summary: dict[str, Any], name: str, bar: str) -> str:
    ours, theirs = summary["policies"][name], summary["policies"][bar]
    wins, losses, p_value = _pair(summary, name, bar)
    return (
        f"{ours['correct']} of {ours['problems']} right, {theirs['correct']} "
        f"by {bar}, {wins} won, {losses} lost, p = {p_value:.2g}"
    )


def _pair(summary: dict[str, Any], name: str, bar: str) -> tuple[int, int, float]:
    """(wins, losses, p-value over templates) of a policy against another; (0, 0, 1) if they share
    no problem.
    """
    for pair in summary["comparisons"]:
        counts = pair["wins"], pair["losses"]
        if (pair["first"], pair["second"]) == (bar, name):
            counts = counts[::-1]
        if {pair["first"], pair["second"]} == {name, bar}:
            return (*counts, pair["cluster_p_value"])
    return 0, 0, 1.0
