"""Selectors on disk, as plain values: a folder with s2t_config.json, s2t_head.safetensors and, if
it has one, a PEFT adapter.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from s2t_ext._version import __version__
from s2t_ext.config import CONFIG_NAME, S2TConfig
from s2t_ext.runs.files import give_usual_modes, locate_file, read_json, write_atomically
from s2t_ext.selectors.adapter import CONFIG_NAME as ADAPTER_CONFIG_NAME
from s2t_ext.selectors.parts import Calibration, Projection, TriggerHead

HEAD_NAME = "s2t_head.safetensors"
FORMAT_VERSION = 1
#: Arguments of a selector that are no tensors.
STORED_OPTIONS = (
    "reserved_ids",
    "bin_temperature",
    "prior_weight",
    "logit_scale",
    "softcap",
    "layer",
)


@dataclass
class Stored:
    """A selector's contents."""

    tensors: dict[str, torch.Tensor]
    options: dict[str, Any]
    base_model: Mapping[str, Any]
    calibrations: Mapping[str, Calibration]
    decoding: S2TConfig | None


def kind_of(path_or_repo: str | Path) -> str:
    """native, or adapter: of the research code, without a head of ours."""
    for kind, name in (
        ("native", CONFIG_NAME),
        ("adapter", ADAPTER_CONFIG_NAME),
    ):
        if _has_file(path_or_repo, name):
            return kind
    raise FileNotFoundError(
        f"load_selector: path_or_repo must hold {CONFIG_NAME}, got {path_or_repo}"
    )


def need_model(model: nn.Module | None, path_or_repo: str | Path) -> nn.Module:
    """The model; ValueError without one."""
    if model is None:
        raise ValueError(
            "load_selector: model must be given for a checkpoint with an adapter, got None "
            f"({path_or_repo})"
        )
    return model


def write(stored: Stored, adapted_model: Any, folder: str | Path) -> Path:
    """Writes the selector; each file is replaced atomically, so an interrupted save leaves the old
    one.
    """
    folder = Path(folder)
    content = {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "base_model": stored.base_model,
        "selector": stored.options,
        "adapter": adapted_model is not None,
        "calibration": {name: c.to_dict() for name, c in stored.calibrations.items()},
        "decoding": (stored.decoding or S2TConfig()).to_dict(),
    }
    cpu = {name: _compact(name, tensor) for name, tensor in stored.tensors.items()}
    write_atomically(folder / HEAD_NAME, save(cpu))
    write_atomically(folder / CONFIG_NAME, json.dumps(content, indent=2) + "\n")
    if adapted_model is not None:
        adapted_model.save_pretrained(folder)
        give_usual_modes(folder)
    return folder


def _compact(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU; of a projection, which is most of a head, in float16 where that is exact."""
    tensor = tensor.detach().cpu().contiguous()
    half = tensor.half()
    exact = name.startswith("projection_") and torch.equal(half.float(), tensor.float())
    return half if exact else tensor


def push(stored: Stored, adapted_model: Any, repo_id: str, **create_options: Any) -> str:
    """Creates the repository if needed and uploads the selector's folder; returns its URL."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, exist_ok=True, **create_options)
    with tempfile.TemporaryDirectory() as folder:
        write(stored, adapted_model, folder)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Upload s2t_ext selector"
        )
    return str(url)


def _has_file(path_or_repo: str | Path, name: str) -> bool:
    try:
        locate_file(path_or_repo, name)
    except FileNotFoundError:
        if not os.path.isdir(path_or_repo) and name == CONFIG_NAME and os.path.exists(path_or_repo):
            raise
        return False
    return True


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"load_selector: {path.name} must be a complete safetensors file, got {error}"
        ) from error
    if "rows" not in tensors:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise ValueError(f"load_selector: {path.name} must hold 'rows', got {found}")
    return tensors


def _check_bins(path: Path, expected: int | None, rows: torch.Tensor) -> None:
    if expected is not None and expected != rows.shape[0]:
        raise ValueError(
            f"load_selector: {path.name} must have {expected} rows, as its configuration says, got "
            f"{rows.shape[0]}"
        )


def read(path_or_repo: str | Path) -> tuple[dict[str, Any], bool]:
    """(arguments of `Selector`, whether an adapter lies beside them)."""
    content = read_json(locate_file(path_or_repo, CONFIG_NAME), "load_selector")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"load_selector: format_version must be {FORMAT_VERSION}, got {version}")
    path = locate_file(path_or_repo, HEAD_NAME)
    tensors = _read_tensors(path)
    head = None
    if "trigger_weight" in tensors:
        bias, entropy_weight = (
            float(tensors[name]) if name in tensors else 0.0
            for name in ("trigger_bias", "trigger_entropy_weight")
        )
        head = TriggerHead(
            tensors["trigger_weight"],
            bias,
            entropy_weight,
            tensors.get("trigger_logprob_weights"),
        )
    try:
        stored = {name: content["selector"][name] for name in STORED_OPTIONS if name != "layer"}
        stored["layer"] = content["selector"].get("layer")
        calibrations = {n: Calibration(**c) for n, c in content.get("calibration", {}).items()}
        adapter = bool(content["adapter"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"load_selector: {CONFIG_NAME} must be one that save_pretrained wrote, got "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_bins(path, content["selector"].get("num_bins"), tensors["rows"])
    arguments = {
        "rows": tensors["rows"],
        "projection": Projection.from_tensors(tensors),
        "bias": tensors.get("bias"),
        "bin_values": tensors.get("bin_values"),
        "trigger_head": head,
        "base_model": content.get("base_model"),
        "calibrations": calibrations,
        "decoding": S2TConfig.from_dict(content.get("decoding", {})),
        **stored,
    }
    if adapter:
        locate_file(path_or_repo, ADAPTER_CONFIG_NAME)
    return arguments, adapter
