"""The one table of all that was graded on distilled tasks, from the answers in `bench/studies/`.

    python bench/distilled_tasks_table.py

`bench/docs_tables.py` writes it into `docs/results.md`. Rows of one set of problems are compared
with greedy decoding on the same problems, by the sign-flip test over templates.
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path

from s2t_ext.evaluation.report import summarize

STUDIES = Path(__file__).resolve().parent / "studies"
#: K of every study.
CANDIDATES = 8
HEADER = (
    "| decoding | right | over templates (95 %) | won / lost | template p | steps with a choice | "
    "tokens changed | the teacher is asked at | tokens an answer | tokens through models | "
    "seconds |"
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: What decodes.
        answers: File, below `STUDIES`.
        own: Another row of the set that it is also compared with: its model's own greedy decoding.
        by_teacher: Whether the 1.5B teacher takes part.
    """

    name: str
    answers: str
    own: str = ""
    by_teacher: bool = False


@dataclass(frozen=True)
class Problems:
    """Rows on the same problems; the first is greedy decoding.

    Attributes:
        title: What they are.
        rows: In the order of the table.
        first: How many of the problems, None for all.
    """

    title: str
    rows: tuple[Row, ...]
    first: int | None = None


_31, _85 = "word_problems_answers", "word_problems_margin"
_TUNED = "the fine-tuned student alone"
SETS = (
    Problems(
        "300 problems of the 66 training templates (seed 31)",
        (
            Row("greedy", f"{_31}/answers/greedy"),
            Row("**the adapter that ships chooses**", f"{_31}/answers/s2t@answers"),
            Row(f"{_TUNED} (vLLM)", f"{_31}/answers/adapted-vllm"),
        ),
    ),
    Problems(
        "the first 100 of them",
        (
            Row("greedy", f"{_31}/answers/greedy"),
            Row("**the adapter that ships chooses**", f"{_31}/answers/s2t@answers"),
            Row(f"{_TUNED} (vLLM)", f"{_31}/answers/adapted-vllm"),
            Row("majority of 8 (vLLM)", f"{_31}/majority/maj@8"),
            Row(
                "S2T, entropy rate 5 %", f"{_31}/frontier/answers/s2t@entropy-0.05", by_teacher=True
            ),
            Row(
                "S2T, entropy rate 10 %", f"{_31}/frontier/answers/s2t@entropy-0.1", by_teacher=True
            ),
            Row(
                "S2T, entropy rate 20 %", f"{_31}/frontier/answers/s2t@entropy-0.2", by_teacher=True
            ),
            Row(
                "S2T, entropy rate 30 %", f"{_31}/frontier/answers/s2t@entropy-0.3", by_teacher=True
            ),
            Row("S2T, divergence > 0.88 nats", f"{_31}/frontier/answers/s2t@kl", by_teacher=True),
            Row(
                "takeover, entropy > 0.43 nats", f"{_31}/frontier/answers/takeover", by_teacher=True
            ),
            Row("the 1.5B teacher alone", f"{_31}/frontier/answers/teacher", by_teacher=True),
        ),
        first=100,
    ),
    Problems(
        "100 problems of 19 other templates (seed 31)",
        (
            Row("greedy", f"{_31}/held_out_templates/answers/greedy"),
            Row("the adapter that ships chooses", f"{_31}/held_out_templates/answers/s2t@answers"),
        ),
    ),
    Problems(
        "300 other problems of the training templates (seed 85)",
        (
            Row("greedy", f"{_85}/answers/greedy"),
            Row("**the adapter that ships chooses, margin 1.9 nats**", f"{_85}/answers/s2t@margin"),
            Row(_TUNED, f"{_85}/fine_tuned/greedy"),
            Row("S2T-LOCAL on it: 16 score rows", f"{_85}/fine_tuned/s2t-local", own=_TUNED),
        ),
    ),
    Problems(
        "200 held-out sums (`chain_sum`), distilled by one `adapt` command",
        (
            Row("greedy", "arithmetic/answers/greedy"),
            Row("**the adapter chooses**", "arithmetic/answers/s2t@adapter"),
            Row("the adapter alone", "arithmetic/answers/teacher@adapter"),
        ),
    ),
    Problems(
        "300 problems of the training templates (seed 29)",
        (
            Row("greedy", "word_problems_chooser/answers/greedy"),
            Row(
                "an adapter distilled on rollouts (GKD) chooses",
                "word_problems_chooser/answers/s2t@chooser",
            ),
            Row("that adapter alone (vLLM)", "word_problems_chooser/answers/adapted-vllm"),
        ),
    ),
    Problems(
        "300 problems of the training templates (seed 7)",
        (
            Row("greedy", "word_problems/answers/greedy"),
            Row("S2T-LOCAL: a selector on the frozen student", "word_problems/answers/s2t-local"),
        ),
    ),
)


def read(row, count):
    """The answers of a row, by problem."""
    with lzma.open(STUDIES / f"{row.answers}.jsonl.xz", "rt") as file:
        lines = [json.loads(line) for line in file][:count]
    return [{"texts": [""] * (8 if "maj@8" in row.answers else 1), **line} for line in lines]


def through_models(row, entry):
    """Tokens of an answer that go through models, as if it were decoded alone, without its prompt:
    a second model that chooses reads it once more, a selector has the student read K candidates.
    """
    choices = entry["trigger_rate"] * entry["tokens"]
    if "s2t-local" in row.answers:
        return entry["tokens"] + CANDIDATES * choices
    return entry["tokens"] * (2 if choices else 1)


def lines_of(problems):
    """The lines of a set."""
    found = {row.name: read(row, problems.first) for row in problems.rows}
    summary = summarize(found)
    pairs = {(c["first"], c["second"]): c for c in summary["comparisons"]}
    greedy = problems.rows[0].name
    yield f"| *{problems.title}* |" + " |" * 10
    for row in problems.rows:
        entry, pair = summary["policies"][row.name], pairs.get((row.name, greedy))
        interval = entry["cluster_accuracy"]
        paired = ["", ""]
        if pair is not None:
            paired = [f"{pair['wins']} / {pair['losses']}", f"{pair['cluster_p_value']:.2g}"]
        if row.own:
            own = pairs[row.name, row.own]
            paired[0] += f"; {own['wins']} / {own['losses']} against {row.own}"
            paired[1] += f"; {own['cluster_p_value']:.2g}"
        asked = entry["teacher_steps"] if row.by_teacher else 0
        yield " | ".join(
            [
                f"| {row.name}",
                f"{entry['correct']} of {entry['problems']}",
                f"{interval['low']:.3f} to {interval['high']:.3f}",
                *paired,
                f"{entry['trigger_rate']:.1%}" if entry["trigger_rate"] else "0",
                f"{entry['change_rate']:.1%}" if entry["trigger_rate"] else "0",
                f"{asked:.0f} steps" if asked else "0",
                f"{entry['tokens']:.0f}",
                f"{through_models(row, entry):.0f}",
                f"{entry['seconds']:.1f} |",
            ]
        )


def table():
    """The whole table, as Markdown."""
    lines = [HEADER, "|---" * 11 + "|"]
    for problems in SETS:
        lines += lines_of(problems)
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
