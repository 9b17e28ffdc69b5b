"""The student's rollouts that are to be labelled: decoded, or read from another collection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.distillation.data.collection import SPLITS, Collection
from s2t_ext.distillation.score_head import head_digest
from s2t_ext.rollouts import PLAIN, roll_out
from s2t_ext.runs.checks import require
from s2t_ext.runs.seeds import row_seed
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher

#: Settings of `collect` that decide what is rolled out, and how.
ROLLOUT_SETTINGS = (
    *("student", "tokenizer_sha256", "prompts_sha256", "rollouts", "temperature"),
    *("max_new_tokens", "seed", "use_chat_template", "decoding"),
)


def check_decoding(decoding: S2TConfig | None, selector: Selector | None) -> None:
    """Raises ValueError for a selector that is missing, not asked for, or has an adapter."""
    chooses = decoding is not None and decoding.trigger != "never" and decoding.select == "local"
    if selector is None:
        require(not chooses, "collect", "selector", "be given for select='local'", None)
        return
    rule = "be left out unless decoding has select='local'"
    require(chooses, "collect", "selector", rule, "one")
    # The labels are of the plain student's candidates.
    require(selector.adapted_model is None, "collect", "selector", "have no adapter", "one")


def describe_decoding(
    decoding: S2TConfig | None, selector: Selector | None
) -> dict[str, Any] | None:
    """What the settings of a collection say of the way its rollouts were decoded; None for the
    student by itself.
    """
    if decoding is None:
        return None
    described = decoding.to_dict()
    if selector is not None:
        calibrations = {name: c.to_dict() for name, c in selector.calibrations.items()}
        described["selector"] = {
            "head": head_digest(selector),
            "prior_weight": selector.prior_weight,
            "calibrations": calibrations,
        }
    return described


class DecodedRollouts:
    """Rollouts that the student decodes when they are asked for.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        texts: A prompt each.
        settings: Of the collection; those of `ROLLOUT_SETTINGS` say how.
        decoding: How choices are made; None: the student decodes by itself.
        selector: For choices of a selector.
        teacher: For choices, or a trigger, of a teacher.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: Sequence[str],
        settings: dict[str, Any],
        decoding: S2TConfig | None = None,
        selector: Selector | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self._model, self._tokenizer, self._texts = model, tokenizer, texts
        self._settings, self._decoding = settings, decoding or PLAIN
        self._choosers: dict[str, Any] = {}
        if selector is not None:
            self._choosers["selector"] = selector
        if self._decoding.select != "local" or self._decoding.trigger == "kl":
            self._choosers["teacher"] = teacher

    def pairs(self, numbers: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids) of the rollouts of these numbers, decoded as a batch."""
        settings = self._settings
        return roll_out(
            self._model,
            self._tokenizer,
            [self._texts[number] for number in numbers],
            s2t=self._decoding,
            max_new_tokens=settings["max_new_tokens"],
            temperature=settings["temperature"],
            seeds=[row_seed(settings["seed"], number) for number in numbers],
            use_chat_template=settings["use_chat_template"],
            **self._choosers,
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
        differ = [name for name in ROLLOUT_SETTINGS if before.get(name) != settings.get(name)]
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
