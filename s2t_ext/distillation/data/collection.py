"""A collection on disk: a manifest and shards of labelled trajectories, written so that a killed
run loses the shard it was working on and nothing else.

    manifest.json               settings, models, number of shards; written first
    trajectories-00000.jsonl    the trajectories of the first prompts, one a line
    ...

and, if it was asked for, what `teacher_tokens` describes beside each shard.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2t_ext.distillation.data.teacher_tokens import TeacherTokens, write_teacher_tokens
from s2t_ext.distillation.groups import Trajectory
from s2t_ext.runs.files import read_json, remove_unfinished, write_atomically
from s2t_ext.runs.run_folder import differing
from s2t_ext.teachers.labels import TopTokens

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
SPLITS = ("train", "held_out")


class Collection:
    """The trajectories of a folder written by `collect`.

    Raises:
        FileNotFoundError: if there is no manifest. ValueError: if it cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"Collection: folder must hold {MANIFEST_NAME}, got none in {folder}"
            )
        self.manifest = read_json(path, "Collection")
        version = self.manifest.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"Collection: format_version must be {FORMAT_VERSION}, got {version}")

    @classmethod
    def open_for_writing(
        cls, folder: str | Path, settings: dict[str, Any], shards: int
    ) -> Collection:
        """Starts a collection, or goes on with one of the same settings.

        Raises:
            ValueError: if the folder holds one with other settings; the message names them.
        """
        folder = Path(folder)
        remove_unfinished(folder)
        if (folder / MANIFEST_NAME).exists():
            collection = cls(folder)
            before = collection.manifest["settings"]
            if differ := differing(before, settings):
                raise ValueError(
                    "collect: output must be a new folder or one collected with the same "
                    f"settings, got one that differs in {', '.join(differ)}: {folder}"
                )
            return collection
        manifest = {"format_version": FORMAT_VERSION, "settings": settings, "shards": shards}
        write_atomically(folder / MANIFEST_NAME, json.dumps(manifest, indent=2) + "\n")
        return cls(folder)

    @property
    def num_shards(self) -> int:
        """Shards of the finished collection."""
        shards: int = self.manifest["shards"]
        return shards

    def missing_shards(self) -> list[int]:
        """Shards that are still to be collected."""
        return [i for i in range(self.num_shards) if not self.shard_path(i).exists()]

    def shard_path(self, index: int) -> Path:
        """Where a shard is, or will be."""
        return self.folder / f"trajectories-{index:05d}.jsonl"

    def tokens_path(self, index: int) -> Path:
        """Where the teacher's likeliest tokens of a shard are, if they were asked for."""
        return self.folder / f"teacher-tokens-{index:05d}.safetensors"

    def write_shard(
        self,
        index: int,
        records: Sequence[tuple[str, Trajectory]],
        tokens: Mapping[str, TopTokens] | None = None,
    ) -> None:
        """Writes the (split, trajectory) records of one shard, whole or not at all.

        Args:
            index: Of the shard.
            records: Its trajectories and their splits.
            tokens: The teacher's likeliest tokens, by the trajectories' keys.
        """
        if tokens is not None:  # first: a shard is there when its trajectories are
            write_teacher_tokens(self.tokens_path(index), tokens)
        lines = [json.dumps({"split": split, **t.to_dict()}) + "\n" for split, t in records]
        write_atomically(self.shard_path(index), "".join(lines))

    def trajectories(self, split: str = "train") -> list[Trajectory]:
        """All trajectories of one split ("train" or "held_out") collected so far, in order."""
        if split not in SPLITS:
            raise ValueError(f"Collection: split must be one of {', '.join(SPLITS)}, got {split!r}")
        return [Trajectory.from_dict(r) for r in self._records() if r["split"] == split]

    def teacher_tokens(self) -> TeacherTokens | None:
        """The teacher's likeliest tokens of all trajectories; None if they were not kept."""
        paths = [self.tokens_path(i) for i in range(self.num_shards)]
        found = [path for path in paths if path.exists()]
        return TeacherTokens(found) if found else None

    def summary(self) -> dict[str, Any]:
        """Counts: shards, and per split trajectories, tokens and groups."""
        counts: dict[str, Any] = {"shards": self.num_shards - len(self.missing_shards())}
        for split in SPLITS:
            some = self.trajectories(split)
            counts[split] = {
                "trajectories": len(some),
                "response_tokens": sum(len(t.response) for t in some),
                "groups": sum(len(t.groups) for t in some),
            }
        return counts

    def digest(self) -> str:
        """Hash of the settings and of the shards collected so far."""
        sha = hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode())
        for index in range(self.num_shards):
            for path in (self.shard_path(index), self.tokens_path(index)):
                if path.exists():
                    sha.update(path.read_bytes())
        return sha.hexdigest()[:16]

    def _records(self) -> Iterator[dict[str, Any]]:
        for index in range(self.num_shards):
            path = self.shard_path(index)
            if not path.exists():
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"Collection: {path.name} line {number} must be JSON, got {error}"
                    ) from error
