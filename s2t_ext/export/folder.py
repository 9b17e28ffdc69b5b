"""From a selector to a folder that serves anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.export.card import CARD_NAME, model_card, selector_card
from s2t_ext.export.custom_generate import SELECTOR_FOLDER, TEMPLATE
from s2t_ext.hf.identity import describe_base_model
from s2t_ext.runs.files import write_atomically
from s2t_ext.selectors.selector import Selector


def export_selector(
    selector: Selector | str | Path,
    model: nn.Module,
    tokenizer: Any,
    output: str | Path,
    *,
    merge: bool = True,
) -> Path:
    """Writes a model folder that decodes with Select-to-Think wherever transformers loads it with
    `trust_remote_code=True`: the weights, the tokenizer, the selector and `custom_generate/`.

    An adapter is folded into the weights, unless the selector is proposal-preserving: then the
    base model must go on proposing, so its weights stay as they are and the selector lies with its
    adapter in the subfolder `selector`.

    Args:
        selector: Or its folder or hub repository.
        model: What it scores with: the student; after method="full" the `model/` of the run. An
            adapter is folded in, or taken off, in place.
        tokenizer: The student's.
        output: The folder.
        merge: False writes no weights, only the selector with its adapter and the tokenizer.

    Returns:
        `output`.

    Raises:
        ValueError: without `merge`, if there is no adapter to keep apart (then there is nothing to
            choose).
    """
    output = Path(output)
    card = selector_card(selector)
    if not isinstance(selector, Selector):
        selector = Selector.from_pretrained(selector, model)
    tokenizer.save_pretrained(output)
    if not merge:
        if selector.adapted_model is None:
            raise ValueError("export: merge must be on for a selector without adapter, got off")
        selector.save_pretrained(output)
        if card:
            write_atomically(output / CARD_NAME, card)
        return output
    beside = output
    if selector.adapted_model is not None:
        if selector.decoding is not None and selector.decoding.proposer == "base":
            beside = output / SELECTOR_FOLDER
            selector.save_pretrained(beside)
            # Instead of the empty card that PEFT writes.
            write_atomically(beside / CARD_NAME, card or model_card(selector, ""))
            model = selector.adapted_model.unload()  # type: ignore[operator]
            selector.adapted_model = None
        else:
            model = selector.merge()
            selector.base_model = describe_base_model(model)
    if beside == output:
        selector.save_pretrained(output)
    model.save_pretrained(output)  # type: ignore[operator]
    write_atomically(output / "custom_generate" / "generate.py", TEMPLATE)
    write_atomically(output / CARD_NAME, model_card(selector, card))
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
