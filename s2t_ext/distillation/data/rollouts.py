"""The student's rollouts that are to be labelled: decoded, or read from another collection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.distillation.data.collection import SPLITS, Collection
from s2t_ext.rollouts import roll_out
from s2t_ext.runs.seeds import row_seed

#: Settings of `collect` that decide what is rolled out, and how.
ROLLOUT_SETTINGS = (
    *("student", "tokenizer_sha256", "prompts_sha256", "rollouts", "temperature"),
    *("max_new_tokens", "seed", "use_chat_template"),
)


class DecodedRollouts:
    """Rollouts that the student decodes when they are asked for.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        texts: A prompt each.
        settings: Of the collection; those of `ROLLOUT_SETTINGS` say how.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, texts: Sequence[str], settings: dict[str, Any]
    ) -> None:
        self._model, self._tokenizer, self._texts = model, tokenizer, texts
        self._settings = settings

    def pairs(self, numbers: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids) of the rollouts of these numbers, decoded as a batch."""
        settings = self._settings
        return roll_out(
            self._model,
            self._tokenizer,
            [self._texts[number] for number in numbers],
            max_new_tokens=settings["max_new_tokens"],
            temperature=settings["temperature"],
            seeds=[row_seed(settings["seed"], number) for number in numbers],
            use_chat_template=settings["use_chat_template"],
        ).pairs


class RecordedRollouts:
    """Rollouts of a finished collection.

    Args:
        settings: Of the new collection; those of `ROLLOUT_SETTINGS` must be the other one's.

    Raises:
        FileNotFoundError: if there is no collection. ValueError: if it is of other rollouts, or
            not finished.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        collection = Collection(folder)
        before = collection.manifest["settings"]
        differ = [name for name in ROLLOUT_SETTINGS if before.get(name) != settings[name]]
        if differ:
            raise ValueError(
                "collect: rollouts_from must be a collection of the same rollouts, got one that "
                f"differs in {', '.join(differ)}: {folder}"
            )
        missing = len(collection.missing_shards())
        if missing:
            raise ValueError(
                "collect: rollouts_from must be a finished collection, got one that lacks "
                f"{missing} of {collection.num_shards} shards: {folder}"
            )
        self._pairs = {
            int(t.key): (list(t.prompt), list(t.response))
            for split in SPLITS
            for t in collection.trajectories(split)
        }

    def pairs(self, numbers: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids) of the rollouts of these numbers."""
        return [self._pairs[number] for number in numbers]
