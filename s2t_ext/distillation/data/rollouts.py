"""The student's rollouts that are to be labelled: decoded, or read from another collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2t_ext.distillation.data.collection import SPLITS, Collection

#: Settings of `collect` that decide what is rolled out, and how.
ROLLOUT_SETTINGS = (
    *("student", "tokenizer_sha256", "prompts_sha256", "rollouts", "temperature"),
    *("max_new_tokens", "seed", "use_chat_template"),
)


class RecordedRollouts:
    """(prompt ids, response ids) by number, of a finished collection.

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

    def __getitem__(self, number: int) -> tuple[list[int], list[int]]:
        return self._pairs[number]
