"""From a selector to a folder that serves anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from s2t_ext.exporting.card import CARD_NAME, model_card, selector_card
from s2t_ext.exporting.custom_generate import SELECTOR_FOLDER, TEMPLATE
from s2t_ext.hf.identity import describe_base_model
from s2t_ext.runs.checks import require
from s2t_ext.runs.files import give_usual_modes, write_atomically
from s2t_ext.selectors.selector import Selector


def export(
    selector: Selector | str | Path,
    model: nn.Module,
    tokenizer: Any,
    output: str | Path,
    *,
    merge: bool = True,
    push_to_hub: str | None = None,
    private: bool = False,
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
        push_to_hub: Also upload the folder to this repository, which is created if missing.
        private: Create that repository as a private one.

    Returns:
        `output`.

    Raises:
        ValueError: without `merge`, if there is no adapter to keep apart (then there is nothing to
            choose); with it, if `output` is the folder that the model was loaded from.
    """
    output = Path(output)
    source = str(getattr(model, "name_or_path", None) or "")
    is_other = not source or Path(source).resolve() != output.resolve()
    require(is_other or not merge, "export", "output", "be another folder than the model's", output)
    card = selector_card(selector)
    if not isinstance(selector, Selector):
        selector = Selector.from_pretrained(selector, model)
    if merge:
        _write_model(selector, model, output, card)
    else:
        _write_selector(selector, output, card)
    tokenizer.save_pretrained(output)
    if push_to_hub is not None:
        upload(output, push_to_hub, private=private)
    return output


def _write_selector(selector: Selector, output: Path, card: str) -> None:
    if selector.adapted_model is None:
        raise ValueError("export: merge must be on for a selector without adapter, got off")
    selector.save_pretrained(output)
    if card:
        write_atomically(output / CARD_NAME, card)


def _write_model(selector: Selector, model: nn.Module, output: Path, card: str) -> None:
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
    give_usual_modes(output)
    write_atomically(output / "custom_generate" / "generate.py", TEMPLATE)
    write_atomically(output / CARD_NAME, model_card(selector, card))


def upload(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Creates the hub repository if there is none, public unless `private`, and uploads the folder;
    returns its URL.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload s2t_ext selector")
    return str(url)
