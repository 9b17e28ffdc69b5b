"""Generated reasoning problems: a stock of things changes step by step; say what is left.

    Mia has 34 shells at the pier . one finds 8 . two sells 5 . how many now ?
    one 34 plus 8 is 42 . two 42 minus 5 is 37 . so the answer is 37 .

To answer, a model must look up each step, know whether its verb adds or takes away (107 verbs, most
of them rare), and add or subtract. One wrong token spoils the rest.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from s2t_ext.demo import words

MAX_NUMBER = 119
MIN_CHANGE, MAX_CHANGE = 2, 12
STEPS = (4, 5, 6)

#: Share of all problems that belongs to each purpose; membership is a hash of the prompt, so no
#: problem is in two splits, whatever the seed.
SPLITS = {"pretrain": 0.85, "distill": 0.09, "dev": 0.03, "held_out": 0.03}


@dataclass(frozen=True)
class Problem:
    """A problem, its worked solution and its answer, as text."""

    prompt: str
    solution: str
    answer: int


def problems(split: str, seed: int) -> Iterator[Problem]:
    """Endless problems of one split, without repetition, the same for the same seed."""
    if split not in SPLITS:
        raise ValueError(f"problems: split must be one of {', '.join(SPLITS)}, got {split!r}")
    rng = random.Random(f"s2t_ext demo {split} {seed}")
    seen = set()
    while True:
        problem = _draw(rng)
        if split_of(problem.prompt) == split and problem.prompt not in seen:
            seen.add(problem.prompt)
            yield problem


def split_of(prompt: str) -> str:
    """The split a prompt belongs to."""
    place = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16) / 2**32
    for name, share in SPLITS.items():
        if place < share:
            return name
        place -= share
    return "held_out"


def answer_of(text: str) -> int | None:
    """The number after the last "answer is" of a response; None if there is none."""
    tokens = text.split()
    for i in range(len(tokens) - 2, 0, -1):
        if tokens[i - 1 : i + 1] == ["answer", "is"]:
            return int(tokens[i + 1]) if tokens[i + 1].isdigit() else None
    return None


def vocabulary() -> list[str]:
    """All tokens in order of their ids; the first three are special."""
    lists = (words.NAMES, words.THINGS, words.PLACES, words.GAINS, words.LOSSES)
    entries = ["<pad>", "<eos>", "<unk>", *words.FUNCTION, *words.ORDINALS]
    entries += [str(n) for n in range(MAX_NUMBER + 1)]
    return list(dict.fromkeys(entries + [word for some in lists for word in some]))


def _draw(rng: random.Random) -> Problem:
    value = rng.randint(10, MAX_NUMBER - 10)
    prompt = [rng.choice(words.NAMES), "has", str(value), rng.choice(words.THINGS)]
    prompt += ["at", "the", rng.choice(words.PLACES), "."]
    solution = []
    for ordinal in words.ORDINALS[: rng.choice(STEPS)]:
        change = rng.randint(MIN_CHANGE, MAX_CHANGE)
        gains = rng.random() < 0.5
        if not 0 <= (value + change if gains else value - change) <= MAX_NUMBER:
            gains = not gains
        verb = _zipf(rng, words.GAINS if gains else words.LOSSES)
        result = value + change if gains else value - change
        prompt += [ordinal, verb, str(change), "."]
        operation = "plus" if gains else "minus"
        solution += [ordinal, str(value), operation, str(change), "is", str(result), "."]
        value = result
    prompt += ["how", "many", "now", "?"]
    solution += ["so", "the", "answer", "is", str(value), "."]
    return Problem(" ".join(prompt), " ".join(solution), value)


def _zipf(rng: random.Random, ranked: list[str]) -> str:
    """A word with probability proportional to 1 / rank."""
    return rng.choices(ranked, weights=[1 / (i + 1) for i in range(len(ranked))])[0]
