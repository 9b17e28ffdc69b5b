"""From a selector to a folder that serves anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.hf.identity import describe_base_model
from s2t_ext.selectors.selector import Selector


def export_selector(
    selector: Selector | str | Path,
    model: nn.Module,
    tokenizer: Any,
    output: str | Path,
    *,
    merge: bool = True,
) -> Path:
    """Writes a folder with the tokenizer, `s2t_config.json` and the score head, in which
    `Selector.from_pretrained(folder)` finds the selector.

    Args:
        selector: Or its folder or hub repository.
        model: What it scores with: the student; after method="full" the `model/` of the run.
        merge: Also write the weights, an adapter folded into them (in place, in `model` and
            `selector`): a plain model folder, which any tool loads. False writes the adapter on
            its own, and no weights.

    Returns:
        `output`.

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


def upload(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Creates the hub repository if there is none, public unless `private`, and uploads the folder;
    returns its URL.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload s2t_ext selector")
    return str(url)
