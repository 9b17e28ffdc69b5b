"""Selectors on disk: a folder with s2t_config.json, s2t_head.safetensors and, if it has one, a PEFT
adapter.

Two foreign forms are read as well: a bare score head (score_head.json + score_head.safetensors),
and a PEFT adapter of the released research code, whose `modules_to_save=["lm_head"]` holds the
score rows among the vocabulary rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .adapter_checkpoint import CONFIG_NAME as ADAPTER_CONFIG_NAME
from .adapter_checkpoint import attach_adapter, left_whole
from .config import CONFIG_NAME, S2TConfig, read_json
from .selector import Calibration, Selector, TriggerHead

HEAD_NAME = "s2t_head.safetensors"
BARE_CONFIG_NAME = "score_head.json"
BARE_HEAD_NAME = "score_head.safetensors"
FORMAT_VERSION = 1
#: Arguments of a selector that are no tensors.
STORED_OPTIONS = ("reserved_ids", "bin_temperature", "prior_weight", "logit_scale", "softcap")


def load_selector(
    path_or_repo: str | Path, model: nn.Module | None = None, **options: Any
) -> Selector:
    """Loads a selector and attaches its adapter, if it has one, to `model` (in place, as PEFT
    does).

    Args:
        path_or_repo: A folder, or a hub repository id.
        model: The model it will serve. Needed if the folder holds an adapter; checked for fit in
            any case.
        options: Replace single arguments of `Selector`; for a research adapter, `reserved_ids`
            names its score rows.

    Raises:
        FileNotFoundError: if a file of the checkpoint is missing. ValueError: if one cannot be
            read, or does not fit the model.
    """
    if _has_file(path_or_repo, CONFIG_NAME):
        selector = _load_native(path_or_repo, model, options)
    elif _has_file(path_or_repo, BARE_CONFIG_NAME):
        selector = _load_bare_head(path_or_repo, options)
    elif _has_file(path_or_repo, ADAPTER_CONFIG_NAME):
        return import_research_adapter(path_or_repo, model, **options)
    else:
        raise FileNotFoundError(
            f"load_selector: path_or_repo must hold {CONFIG_NAME}, got {path_or_repo}"
        )
    if model is not None and selector.adapted_model is None:
        selector.check_fits(model)
    return selector


def save_selector(selector: Selector, folder: str | Path) -> Path:
    """Writes the selector; each file is replaced atomically, so an interrupted save leaves the old
    one.
    """
    from . import __version__

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"rows": selector.rows, "bin_values": selector.bin_values}
    if selector.bias is not None:
        tensors["bias"] = selector.bias
    if selector.trigger_head is not None:
        tensors["trigger_weight"] = selector.trigger_head.weight
        tensors["trigger_bias"] = torch.tensor([selector.trigger_head.bias])
    content = {
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "base_model": selector.base_model,
        "selector": {
            "num_bins": selector.num_bins,
            **{name: getattr(selector, name) for name in STORED_OPTIONS},
        },
        "adapter": selector.adapted_model is not None,
        "calibration": {name: c.to_dict() for name, c in selector.calibrations.items()},
        "decoding": (selector.decoding or S2TConfig()).to_dict(),
    }
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory(dir=folder) as staging:
        save_file(cpu, Path(staging) / HEAD_NAME)
        (Path(staging) / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n")
        for name in (HEAD_NAME, CONFIG_NAME):
            os.replace(Path(staging) / name, folder / name)
    if selector.adapted_model is not None:
        selector.adapted_model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def push_selector(selector: Selector, repo_id: str, **create_options: Any) -> str:
    """Creates the repository if needed and uploads the selector's folder; returns its URL."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, exist_ok=True, **create_options)
    with tempfile.TemporaryDirectory() as folder:
        save_selector(selector, folder)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="Upload s2t_ext selector"
        )
    return str(url)


def import_research_adapter(
    path_or_repo: str | Path,
    model: nn.Module | None,
    *,
    reserved_ids: Sequence[int] | None = None,
    **options: Any,
) -> Selector:
    """Reads a PEFT adapter whose lm_head was trained in place (`modules_to_save`), as the released
    research code writes it.

    The score rows are read from the adapted head at `reserved_ids`; when those are not given, they
    are the first 16 vocabulary rows that no tokenizer entry uses
    (`reserved_tokens.resolve_reserved_ids`).
    """
    from .reserved_tokens import check_ids, resolve_reserved_ids

    if model is None:
        raise ValueError(
            "load_selector: model must be given for a checkpoint with an adapter, got None "
            f"({path_or_repo})"
        )
    base = describe_base_model(model)
    if reserved_ids is None:
        reserved_ids = resolve_reserved_ids(model, path_or_repo)
    check_ids(model, reserved_ids)  # before the model is touched
    with left_whole(model):
        adapted = attach_adapter(path_or_repo, model, locate_file)
        selector = Selector.from_reserved_rows(adapted, reserved_ids, base_model=base, **options)
    selector.adapted_model = adapted
    return selector


def describe_base_model(model: nn.Module) -> dict[str, Any]:
    """What identifies a base model: name, type, sizes, and a fingerprint of its embedding (64 rows,
    rounded to bf16).
    """
    from .decoding.adapters import unwrap_peft

    plain = unwrap_peft(model)
    config = plain.config.get_text_config(decoder=True)
    embedding = plain.get_input_embeddings()
    weight = getattr(embedding, "original_module", embedding).weight  # not an adapter's copy
    rows = torch.linspace(0, weight.shape[0] - 1, 64, device=weight.device).long()
    sample = weight.detach()[rows].to(torch.bfloat16).cpu().contiguous().view(torch.uint8)
    name = config._name_or_path or plain.config._name_or_path
    return {
        # A folder's own name: where it lies on this machine says nothing on another.
        "name": os.path.basename(os.path.normpath(name)) if os.path.isdir(name) else name,
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_hidden_layers,
        "fingerprint": hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16],
    }


def locate_file(path_or_repo: str | Path, name: str) -> Path:
    """Path of one file of a folder or hub repository.

    Raises:
        FileNotFoundError: if it is not there.
    """
    if os.path.isdir(path_or_repo):
        path = Path(path_or_repo) / name
        if path.is_file():
            return path
        raise FileNotFoundError(
            f"load_selector: {name} must be in the checkpoint, got none in {path_or_repo}"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(path_or_repo), name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            "load_selector: path_or_repo must be a folder or a reachable hub repository with "
            f"{name}, got {path_or_repo}"
        ) from error


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


def _load_native(
    path_or_repo: str | Path, model: nn.Module | None, options: dict[str, Any]
) -> Selector:
    content = read_json(locate_file(path_or_repo, CONFIG_NAME), "load_selector")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"load_selector: format_version must be {FORMAT_VERSION}, got {version}")
    path = locate_file(path_or_repo, HEAD_NAME)
    tensors = _read_tensors(path)
    head = None
    if "trigger_weight" in tensors:
        head = TriggerHead(tensors["trigger_weight"], float(tensors["trigger_bias"]))
    try:
        stored = {name: content["selector"][name] for name in STORED_OPTIONS}
        calibrations = {n: Calibration(**c) for n, c in content.get("calibration", {}).items()}
        # Folders of the first version do not say; what lies there is then theirs.
        adapter = content.get("adapter", _has_file(path_or_repo, ADAPTER_CONFIG_NAME))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"load_selector: {CONFIG_NAME} must be one that save_pretrained wrote, got "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_bins(path, content["selector"].get("num_bins"), tensors["rows"])
    arguments = {
        "rows": tensors["rows"],
        "bias": tensors.get("bias"),
        "bin_values": tensors.get("bin_values"),
        "trigger_head": head,
        "base_model": content.get("base_model"),
        "calibrations": calibrations,
        "decoding": S2TConfig.from_dict(content.get("decoding", {})),
        **stored,
    }
    selector = Selector(**{**arguments, **options})
    if adapter:
        locate_file(path_or_repo, ADAPTER_CONFIG_NAME)
        if model is None:
            raise ValueError(
                "load_selector: model must be given for a checkpoint with an adapter, got None "
                f"({path_or_repo})"
            )
        selector.check_fits(model)
        selector.adapted_model = attach_adapter(path_or_repo, model, locate_file)
    return selector


def _load_bare_head(path_or_repo: str | Path, options: dict[str, Any]) -> Selector:
    content = read_json(locate_file(path_or_repo, BARE_CONFIG_NAME), "load_selector")
    path = locate_file(path_or_repo, BARE_HEAD_NAME)
    tensors = _read_tensors(path)
    _check_bins(path, content.get("num_bins"), tensors["rows"])
    thresholds = content.get("entropy_threshold", {})
    calibrations = {}
    if thresholds:
        rate, threshold = min(
            (float(name.rstrip("%")) / 100, value) for name, value in thresholds.items()
        )
        calibrations["entropy"] = Calibration(threshold, rate)
    arguments = {
        "bias": tensors.get("bias"),
        "bin_values": tensors.get("bin_values"),
        "reserved_ids": content.get("vocabulary_ids", ()),
        "bin_temperature": content.get("bin_temperature", 1.0),
        "prior_weight": content.get("prior_weight", 0.0),
        "base_model": {
            "name": content.get("base_model", ""),
            "hidden_size": content.get("hidden_size"),
        },
        "calibrations": calibrations,
        "decoding": S2TConfig(k=content.get("k", 8), trigger=content.get("trigger", "entropy")),
    }
    return Selector(tensors["rows"], **{**arguments, **options})
