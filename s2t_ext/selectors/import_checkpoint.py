"""Checkpoints of other projects as selector folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from s2t_ext.hf.identity import describe_base_model
from s2t_ext.selectors.selector import Selector


def import_checkpoint(
    checkpoint: str | Path,
    model: nn.Module,
    output: str | Path,
    *,
    reserved_ids: Sequence[int] | None = None,
) -> Selector:
    """Converts a score head, a PEFT adapter or an older selector into a selector folder.

    Args:
        checkpoint: Its folder or hub repository.
        model: The base model it was trained on; an adapter is attached to it.
        output: The selector's folder.
        reserved_ids: Vocabulary rows that an adapter trained as score rows; None finds them by
            comparing the adapter's rows with the model's.

    Returns:
        The selector, already written to `output`.

    Raises:
        ValueError: for a checkpoint that holds no score rows, or rows of another model.
    """
    base = describe_base_model(model)
    options = {} if reserved_ids is None else {"reserved_ids": list(reserved_ids)}
    selector = Selector.from_pretrained(checkpoint, model, **options)
    selector.base_model = base
    selector.save_pretrained(output)
    return selector
