"""What a killed training run goes on from: weights, optimiser, random state, and where it was."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2t_ext.runs.files import remove_unfinished, write_atomically

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.jsonl"


class TrainingState:
    """Saves and restores a run in a folder.

    Args:
        folder: Of the run.
        identity: What a run is resumed under: options and data; a checkpoint with another identity
            is refused.
        accelerator: Knows the processes, of which one writes.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any], accelerator: Any) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._accelerator = accelerator
        self.is_main = bool(accelerator.is_main_process)
        for part in (self.folder, self.folder / "selector"):
            remove_unfinished(part)
        # Through JSON, so that what was saved compares equal.
        self.identity = json.loads(json.dumps(identity))

    def save(
        self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, steps_done: int
    ) -> None:
        """Writes a checkpoint, replacing the last one in one move; called by all processes."""
        from accelerate.utils import gather_object

        random = gather_object([_random_state()])
        if not self.is_main:
            return
        scaler = self._accelerator.scaler
        content = {
            "identity": self.identity,
            "steps_done": steps_done,
            "modules": {name: trained_state(module) for name, module in modules.items()},
            "optimizer": optimizer.state_dict(),
            "scaler": {} if scaler is None else scaler.state_dict(),
            "random": random,
            "metrics_size": self._metrics.stat().st_size if self._metrics.exists() else 0,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_atomically(self.folder / CHECKPOINT_NAME, buffer.getvalue())

    def check(self) -> None:
        """Refuses a folder with a run of another identity.

        Raises:
            ValueError: naming what differs.
        """
        check_identity(self.folder, self.identity)

    def restore(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
        """Loads the checkpoint, if there is one; returns the optimiser steps already done.

        Raises:
            ValueError: if it belongs to a run with other options or data.
        """
        self.check()
        path = self.folder / CHECKPOINT_NAME
        if not path.exists():
            if self.is_main:
                self._metrics.unlink(missing_ok=True)
            return 0
        content = torch.load(path, map_location="cpu", weights_only=True)
        for name, module in modules.items():
            own = dict(module.named_parameters())
            with torch.no_grad():
                for parameter, value in content["modules"][name].items():
                    own[parameter].copy_(value)
        optimizer.load_state_dict(content["optimizer"])
        if content["scaler"]:
            self._accelerator.scaler.load_state_dict(content["scaler"])
        random = content["random"][self._accelerator.process_index]
        torch.set_rng_state(random["cpu"])
        if random["cuda"]:
            torch.cuda.set_rng_state_all(random["cuda"])
        if self.is_main and self._metrics.exists():
            # Lines written after the checkpoint will be written again.
            with self._metrics.open("r+b") as file:
                file.truncate(content["metrics_size"])
        return int(content["steps_done"])

    def log(self, record: dict[str, Any]) -> None:
        """Appends a line to the metrics."""
        if not self.is_main:
            return
        with self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    @property
    def _metrics(self) -> Path:
        return self.folder / METRICS_NAME


def _random_state() -> dict[str, Any]:
    """Of this process."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def check_identity(folder: Path, identity: dict[str, Any], whole: bool = True) -> bool:
    """Refuses a folder with a run of another identity; returns whether there is a run.

    Args:
        folder: Of the run.
        identity: Plain JSON values.
        whole: False compares only what `identity` holds.

    Raises:
        ValueError: naming what differs.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return False
    theirs = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["identity"]
    if not whole:
        theirs = {name: value for name, value in theirs.items() if name in identity}
    differ = _differing(theirs, identity)
    if differ:
        raise ValueError(
            "distill: output must be a new folder or a run of the same options and data, got one "
            f"that differs in {', '.join(differ)}: {folder}"
        )
    return True


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of values that differ, those inside of objects by themselves."""
    found = []
    for name in {**now, **before}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differing(old, new)
        elif old != new:
            found.append(name)
    return found


def trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters of a module that are trained."""
    named = module.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}
