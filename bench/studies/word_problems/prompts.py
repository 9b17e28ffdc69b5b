"""Writes the training prompts of the study: 900 problems, none of them in IN.

    python bench/studies/word_problems/prompts.py train.jsonl

The groups (templates) are left out on purpose: `collect` then holds out other problems of the same
templates.
"""

import json
import sys

from s2t_ext.evaluation.tasks import load_task


def main(path: str) -> None:
    """Draws both sets and writes the difference."""
    graded = {p.prompt for p in load_task("gsm_symbolic", 300, seed=7, split="train")}
    drawn = load_task("gsm_symbolic", 905, seed=3, split="train")
    kept = [p.prompt for p in drawn if p.prompt not in graded][:900]
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in kept)


if __name__ == "__main__":
    main(sys.argv[1])
