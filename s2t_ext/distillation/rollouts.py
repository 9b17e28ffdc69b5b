"""The student's rollouts that are to be labelled: decoded, or read from another collection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..calibration import pad_prompts
from ..config import S2TConfig
from ..generation import generate
from .collection import SPLITS, Collection

#: Settings of `collect` that decide what is rolled out, and how.
ROLLOUT_SETTINGS = (
    *("student", "tokenizer_sha256", "prompts_sha256", "rollouts", "temperature"),
    *("max_new_tokens", "seed", "use_chat_template"),
)


def roll_out(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    seeds: Sequence[int],
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids) of each text; a response ends with its end-of-sequence token, if
    it got that far.

    Args:
        temperature: Of sampling over the whole vocabulary; 0 decodes greedily.
        max_new_tokens: Length of a response at most. seeds: One per text, its key of the sampling.
    """
    inputs = pad_prompts(tokenizer, texts, model)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    output = generate(
        model,
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        s2t=S2TConfig(trigger="never"),
        seed=list(seeds),
        max_new_tokens=max_new_tokens,
        return_dict_in_generate=True,
        **sampling,
    )
    assert not isinstance(output, torch.Tensor) and output.s2t is not None
    pairs = []
    rows = zip(inputs["input_ids"], inputs["attention_mask"], output.s2t.rows, strict=True)
    for ids, mask, row in rows:
        pairs.append((ids[mask.bool()].tolist(), list(row.tokens)))
    return pairs


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
