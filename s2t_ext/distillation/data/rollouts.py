"""The student's rollouts that are to be labelled: decoded here or by an engine, or read from
another collection or a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from s2t_ext.config import S2TConfig
from s2t_ext.distillation.data.collection import SPLITS, Collection
from s2t_ext.distillation.score_head import head_digest
from s2t_ext.hf.identity import vocabulary_size
from s2t_ext.rollouts import PLAIN, engine_options, roll_out, roll_out_in_engine
from s2t_ext.runs.checks import require
from s2t_ext.runs.seeds import row_seed
from s2t_ext.selectors.selector import Selector
from s2t_ext.teachers.base import Teacher

#: (prompt ids, response ids) of a rollout.
Pair = tuple[list[int], list[int]]

#: Settings of `collect` that decide what is rolled out, and how.
ROLLOUT_SETTINGS = (
    *("student", "tokenizer_sha256", "prompts_sha256", "rollouts", "temperature"),
    *("max_new_tokens", "seed", "use_chat_template", "decoding"),
)

#: Settings that say where the rollouts come from, if not from decoding in this process.
ORIGIN_SETTINGS = ("engine", "rollouts_sha256")


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


def check_rollouts(rollouts: int, temperature: float, max_new_tokens: int, batch_size: int) -> None:
    """Raises ValueError for rollouts that cannot be decoded so."""
    require(rollouts >= 1, "collect", "rollouts", "be at least 1", rollouts)
    require(temperature >= 0, "collect", "temperature", "be at least 0", temperature)
    several = rollouts == 1 or temperature > 0
    require(several, "collect", "rollouts", "be 1 at temperature 0, where all are alike", rollouts)
    require(max_new_tokens >= 1, "collect", "max_new_tokens", "be at least 1", max_new_tokens)
    require(batch_size >= 1, "collect", "batch_size", "be at least 1", batch_size)


class Rollouts(Protocol):
    """Where `collect` gets its rollouts.

    Attributes:
        origin: What the settings of the collection say of it; empty for those decoded here.
    """

    @property
    def origin(self) -> dict[str, Any]: ...

    def pairs(self, numbers: Sequence[int]) -> list[Pair]:
        """(prompt ids, response ids) of the rollouts of these numbers."""
        ...


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

    origin: dict[str, Any] = {}

    def pairs(self, numbers: Sequence[int]) -> list[Pair]:
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


def rollout_source(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    settings: dict[str, Any],
    *,
    path: str | Path | None = None,
    engine: Any = None,
    **choosers: Any,
) -> Rollouts:
    """Where a collection's rollouts come from.

    Args:
        model: The student.
        tokenizer: Its tokenizer.
        texts: A prompt for each rollout.
        settings: Of the new collection.
        path: The folder of a finished collection, or a `.jsonl` file, to read them from.
        engine: A `vllm.LLM` that decodes them.
        choosers: `decoding`, `selector` and `teacher`, as for `DecodedRollouts`.
    """
    if path is not None and Path(path).suffix == ".jsonl":
        return ImportedRollouts(path, len(texts), vocabulary_size(model))
    if path is not None:
        return RecordedRollouts(path, settings)
    if engine is not None:
        choosers.pop("teacher", None)
        return EngineRollouts(engine, tokenizer, texts, settings, **choosers)
    return DecodedRollouts(model, tokenizer, texts, settings, **choosers)


class EngineRollouts:
    """Rollouts that a vLLM engine decodes when they are asked for.

    Args:
        llm: A `vllm.LLM` of the student.
        tokenizer: The student's.
        texts: A prompt each.
        settings: As for `DecodedRollouts`.
        decoding: How choices are made; None: the student decodes by itself.
        selector: For choices of a selector, which the engine has been started with.
    """

    origin = {"engine": "vllm"}

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        texts: Sequence[str],
        settings: dict[str, Any],
        decoding: S2TConfig | None = None,
        selector: Selector | None = None,
    ) -> None:
        self._llm, self._tokenizer, self._texts = llm, tokenizer, texts
        self._settings, self._request_options = settings, engine_options(decoding, selector)

    def pairs(self, numbers: Sequence[int]) -> list[Pair]:
        """(prompt ids, response ids) of the rollouts of these numbers, decoded together."""
        settings = self._settings
        answers = roll_out_in_engine(
            self._llm,
            self._tokenizer,
            [self._texts[number] for number in numbers],
            max_new_tokens=settings["max_new_tokens"],
            seeds=[row_seed(settings["seed"], number) for number in numbers],
            temperature=settings["temperature"],
            use_chat_template=settings["use_chat_template"],
            request_options=self._request_options,
        )
        return [(answer.prompt, answer.response) for answer in answers]


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
        self.origin = {name: before[name] for name in ORIGIN_SETTINGS if name in before}
        self._pairs = {
            int(t.key): (list(t.prompt), list(t.response))
            for split in SPLITS
            for t in collection.trajectories(split)
        }

    def pairs(self, numbers: Sequence[int]) -> list[Pair]:
        """(prompt ids, response ids) of the rollouts of these numbers."""
        return [self._pairs[number] for number in numbers]


class ImportedRollouts:
    """Rollouts of a file of JSON lines, made by any program:

        {"prompt": [ids], "response": [ids]}

    Args:
        path: The file; line i is rollout number i, empty lines do not count.
        count: Rollouts that are wanted.
        vocabulary: Rows of the student's embedding; every id is below.

    Raises:
        FileNotFoundError: if there is no file. ValueError: if it holds anything else.
    """

    def __init__(self, path: str | Path, count: int, vocabulary: int) -> None:
        content = Path(path).read_bytes()
        lines = [line for line in content.split(b"\n") if line.strip()]
        rule = f"have one line for each of {count} rollouts"
        require(len(lines) == count, "collect", "rollouts_from", rule, f"{len(lines)}: {path}")
        self.origin = {"rollouts_sha256": hashlib.sha256(content).hexdigest()}
        self._pairs = [_pair(line, number, vocabulary) for number, line in enumerate(lines, 1)]

    def pairs(self, numbers: Sequence[int]) -> list[Pair]:
        """(prompt ids, response ids) of the rollouts of these numbers."""
        return [self._pairs[number] for number in numbers]


def _pair(line: bytes, number: int, vocabulary: int) -> Pair:
    """The prompt and response of a line; a response may be empty."""
    try:
        record = json.loads(line)
        prompt, response = record["prompt"], record["response"]
        fits = bool(prompt) and all(
            type(i) is int and 0 <= i < vocabulary for i in prompt + response
        )
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(
            'collect: rollouts_from must hold lines {"prompt": [ids], "response": [ids]} with '
            f"ids below {vocabulary}, got line {number}: {line[:80].decode(errors='replace')}"
        )
    return prompt, response
