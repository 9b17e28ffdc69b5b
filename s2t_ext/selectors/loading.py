"""Selectors from folders and repositories: our own form, and adapters of the research code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.hf.identity import describe_base_model
from s2t_ext.runs.shipped import shipped_folder
from s2t_ext.selectors import storage
from s2t_ext.selectors.adapter import attach_adapter, left_whole
from s2t_ext.selectors.reserved_tokens import check_ids, resolve_reserved_ids


def load(
    cls: Any, path_or_repo: str | Path, model: nn.Module | None, options: dict[str, Any]
) -> Any:
    """An instance of `cls`, the class of selectors; see `Selector.from_pretrained`."""
    shipped = shipped_folder(path_or_repo)
    if shipped is not None and storage.kind_of(shipped) == "adapter":
        raise ValueError(
            "load_selector: path_or_repo must be a selector, got an adapter without score rows, "
            f"which adapter_teacher loads: {path_or_repo}"
        )
    path_or_repo = shipped or path_or_repo
    if storage.kind_of(path_or_repo) == "adapter":
        return _research_adapter(cls, path_or_repo, model, **options)
    arguments, has_adapter = storage.read(path_or_repo)
    selector = cls(**{**arguments, **options})
    if has_adapter:
        plain = storage.need_model(model, path_or_repo)
        selector.check_fits(plain)
        selector.adapted_model = attach_adapter(path_or_repo, plain)
    elif model is not None:
        selector.check_fits(model)
    return selector


def _research_adapter(
    cls: Any,
    path_or_repo: str | Path,
    model: nn.Module | None,
    *,
    reserved_ids: Sequence[int] | None = None,
    **options: Any,
) -> Any:
    """Reads a PEFT adapter whose lm_head was trained in place, as the released research code writes
    it."""
    plain = storage.need_model(model, path_or_repo)
    base = describe_base_model(plain)
    if reserved_ids is None:
        reserved_ids = resolve_reserved_ids(plain, path_or_repo)
    check_ids(plain, reserved_ids)  # before the model is touched
    with left_whole(plain):
        adapted = attach_adapter(path_or_repo, plain)
        selector = cls.from_reserved_rows(adapted, reserved_ids, base_model=base, **options)
    selector.adapted_model = adapted
    return selector
