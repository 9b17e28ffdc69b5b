"""What kinds of corrections a selector makes, on the held-out rollouts of a collection.

    python bench/studies/word_problems/kinds.py STUDENT COLLECTION STATES SELECTOR

STATES: what `states.py` wrote. Prints, by the kind of the teacher's choice: labelled steps,
corrections, overrides towards a token the teacher likes better, and less, and net recall.
"""

import sys
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from s2t_ext import Selector
from s2t_ext.distillation.data.collection import Collection


def kind_of(text: str) -> str:
    """digit, word, symbol or space."""
    if any(c.isdigit() for c in text):
        return "digit"
    if not text.strip():
        return "space"
    return "word" if any(c.isalnum() or ord(c) > 127 for c in text) else "symbol"


def main(student: str, collection: str, states: str, selector: str) -> None:
    """One line per kind."""
    tokenizer, chosen = AutoTokenizer.from_pretrained(student), Selector.from_pretrained(selector)
    margin, counts = chosen.decoding.override_margin, defaultdict(lambda: [0] * 4)
    for trajectory in Collection(collection).trajectories("held_out"):
        path = Path(states) / f"{trajectory.key}.safetensors"
        if not path.exists():
            continue
        hidden = load_file(path)[f"c{chosen.layer}"].float()
        scores = chosen.score(hidden.flatten(0, 1)).view(hidden.shape[:2])
        for group, score in zip(trajectory.groups, scores, strict=True):
            prior = chosen.prior_weight * torch.tensor(group.student_logprobs)
            total, teacher = score[: len(prior)] + prior, torch.tensor(group.teacher_probs)
            best, slot = int(teacher.argmax()), int(total.argmax())
            slot = slot if total[slot] - total[0] > margin else 0
            row = counts[kind_of(tokenizer.decode([group.candidates[best]]))]
            row[0] += 1
            row[1] += best != 0
            row[2] += bool(teacher[slot] > teacher[0])
            row[3] += bool(teacher[slot] < teacher[0])
    for kind, (steps, corrections, better, worse) in sorted(counts.items()):
        net = (better - worse) / max(corrections, 1)
        print(f"{kind:7} {steps:5} {corrections:5} {better:5} {worse:5} {net:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
