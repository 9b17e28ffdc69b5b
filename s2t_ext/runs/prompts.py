"""A prompt, and on which side of a split it falls."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A prompt to roll out.

    Attributes:
        text: What the user says.
        group: Prompts of one group (a template, a document) are in the same split; "" stands alone.
    """

    text: str
    group: str = ""

    def is_held_out(self, share: float, salt: str = "held out of a collection") -> bool:
        """Whether it belongs to the held-out split; depends on nothing but its group or text.

        Splits of another salt are independent: the training part of one still has a held-out part
        in the other.
        """
        key = f"{salt}\0{self.group or self.text}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        return int(digest[:8], 16) / 2**32 < share
