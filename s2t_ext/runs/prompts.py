"""A prompt, and on which side of a split it falls."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

#: Of the split of a collection.
_SALT = "held out of a collection"


@dataclass(frozen=True)
class Prompt:
    """A prompt to roll out.

    Attributes:
        text: What the user says.
        group: Prompts of one group (a template, a document) are in the same split; "" stands alone.
    """

    text: str
    group: str = ""

    def is_held_out(self, share: float, salt: str) -> bool:
        """Whether it belongs to the held-out split; depends on nothing but its group or text.

        Splits of another salt are independent: the training part of one still has a held-out part
        in the other.
        """
        return _place(self, salt) < share


def choose_held_out(prompts: Sequence[Prompt], share: float) -> list[bool]:
    """Which prompts are set aside: whole groups, so that the share is met as closely as they allow.

    Groups come in the order of their hashes, so that nearly the same ones are chosen where prompts
    are added. Of several groups at least one is set aside if `share` is above 0, and one is not.

    Args:
        prompts: Those with the same group, or without one the same text, stay together.
        share: Of the prompts, in [0, 1).

    Returns:
        A flag for each prompt.
    """
    sizes = Counter(prompt.group or prompt.text for prompt in prompts)
    by_key = {prompt.group or prompt.text: prompt for prompt in prompts}
    order = sorted(sizes, key=lambda key: _place(by_key[key], _SALT))
    wanted, taken, chosen = share * len(prompts), 0, set[str]()
    for key in order:
        closer = abs(taken + sizes[key] - wanted) < abs(taken - wanted)
        if closer and len(chosen) < len(sizes) - 1:
            chosen.add(key)
            taken += sizes[key]
    if share > 0 and not chosen and len(sizes) > 1:
        chosen.add(min(order, key=lambda key: sizes[key]))  # the first of the smallest
    return [(prompt.group or prompt.text) in chosen for prompt in prompts]


def _place(prompt: Prompt, salt: str) -> float:
    """In [0, 1): the same for prompts of one group."""
    key = f"{salt}\0{prompt.group or prompt.text}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    return int(digest[:8], 16) / 2**32
