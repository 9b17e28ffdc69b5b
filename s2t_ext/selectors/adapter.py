"""Attaching the PEFT adapter of a checkpoint to a plain model; none is left half adapted."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from s2t_ext.hf.adapters import active_adapters, adapter_layers, adapter_weights
from s2t_ext.hf.unwrapping import unwrap_model
from s2t_ext.runs.files import locate_file

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"


def attach_adapter(
    path_or_repo: str | Path, model: nn.Module, reader: str = "load_selector"
) -> nn.Module:
    """The PeftModel around `model`, whose layers now hold the adapter.

    Args:
        path_or_repo: Folder or hub repository of the adapter.
        model: The plain model.
        reader: In whose name errors are raised.

    Raises:
        FileNotFoundError: if the adapter has no weights. ValueError: if they are a pickle, damaged,
            or another model's, or if `model` is not a plain model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(
            f"{reader}: peft must be installed for a checkpoint with an adapter: pip install peft"
        ) from error
    if not isinstance(model, PreTrainedModel) or adapter_layers(model):
        raise ValueError(
            f"{reader}: model must be a plain transformers model to attach an adapter to, "
            f"got {type(model).__name__}{' with an adapter' if adapter_layers(model) else ''}"
        )
    stored = _stored_names(path_or_repo, reader)
    with left_whole(model):
        try:
            with warnings.catch_warnings():
                # PEFT reads a property of transformers by the name that is to go.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                adapted: nn.Module = PeftModel.from_pretrained(model, str(path_or_repo))
            _check_layers(adapted, stored)
        except Exception as error:  # PEFT reads the file's values before it looks at them
            raise ValueError(
                f"{reader}: adapter must fit {type(model).__name__}, got {_first_lines(error)}"
            ) from error
        adapted.eval()
    return adapted


def same_adapter(adapted: nn.Module, model: nn.Module) -> bool:
    """Whether `model` decodes with an adapter of the PeftModel `adapted`: it is the model inside,
    or another one that holds the same weights under the same name.
    """
    names = active_adapters(model) & set(getattr(adapted, "peft_config", {}))
    own = unwrap_model(adapted)
    if own is model or not names:
        return bool(names)
    for name in names:
        mine, theirs = adapter_weights(own, name), adapter_weights(model, name)
        # A few of them: an adapter that was trained differs in every one.
        for key in sorted(mine)[:: max(len(mine) // 4, 1)]:
            if key not in theirs or mine[key].shape != theirs[key].shape:
                return False
            if not torch.equal(mine[key].cpu(), theirs[key].cpu()):
                return False
    return True


@contextlib.contextmanager
def left_whole(model: nn.Module) -> Iterator[None]:
    """Takes an adapter off again, and puts modes and flags back, if what is inside fails."""
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    except BaseException:
        _remove_adapter(model)
        for parameter, flag in trained:
            parameter.requires_grad_(flag)  # PEFT has frozen them
        for module, mode in modes:
            module.training = mode
        raise


def _stored_names(path_or_repo: str | Path, reader: str) -> set[str]:
    try:
        path = locate_file(path_or_repo, WEIGHTS_NAME, reader)
    except FileNotFoundError:
        try:
            locate_file(path_or_repo, PICKLE_NAME, reader)
        except FileNotFoundError:
            pass
        else:
            raise ValueError(
                f"{reader}: the adapter must be in {WEIGHTS_NAME} (loading a pickle can run "
                f"any code), got {PICKLE_NAME}"
            ) from None
        raise
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise ValueError(
            f"{reader}: {path.name} must be a complete safetensors file, got {error}"
        ) from error


def _check_layers(adapted: nn.Module, stored: set[str]) -> None:
    """PEFT only warns where the adapter of a shallower or deeper model leaves layers over."""
    from peft import get_peft_model_state_dict

    # PEFT's default for the embedding would ask the hub about the base model.
    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    expected = {name for name in state if ".lora_" in name}
    found = {name for name in stored if ".lora_" in name}
    if expected != found:
        missing, extra = len(expected - found), len(found - expected)
        raise ValueError(f"{missing} of its LoRA tensors missing and {extra} without a layer")


def _remove_adapter(model: nn.Module) -> None:
    """Puts the wrapped layers back in their places."""
    wrapped = {id(layer) for layer in adapter_layers(model)}
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if id(child) in wrapped:
                original = getattr(child, "original_module", None)
                plain = child.get_base_layer() if original is None else original
                setattr(model.get_submodule(name), child_name, plain)
    model.__dict__.pop("peft_config", None)


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(lines[:2])[:300]
