"""From a selector to a folder that serves anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint import describe_base_model
from ..selector import Selector


def export_selector(
    selector: Selector | str | Path,
    model: nn.Module,
    tokenizer: Any,
    output: str | Path,
    *,
    merge: bool = True,
) -> Path:
    """Writes a plain model folder with the tokenizer, `s2t_config.json` and the score head.

    Any tool that loads transformers folders loads it; `Selector.from_pretrained(folder)` finds the
    selector beside the weights. With `merge` an adapter is folded into them; without, the adapter
    is written next to the selector and the weights stay the base model's.

    Raises:
        ValueError: without `merge`, if there is no adapter to keep apart (then there is nothing to
            choose).
    """
    output = Path(output)
    if not isinstance(selector, Selector):
        selector = Selector.from_pretrained(selector, model)
    if selector.adapted_model is not None and merge:
        model = selector.merge()
        selector.base_model = describe_base_model(model)
    elif not merge:
        if selector.adapted_model is None:
            raise ValueError("export: merge must be on for a selector without adapter, got off")
        selector.save_pretrained(output)
        tokenizer.save_pretrained(output)
        return output
    model.save_pretrained(output)  # type: ignore[operator]
    tokenizer.save_pretrained(output)
    selector.save_pretrained(output)
    return output


def upload(folder: str | Path, repo_id: str) -> str:
    """Creates the hub repository if needed and uploads the folder; returns its URL."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload s2t_ext selector")
    return str(url)
