"""Which model a selector belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s2t_ext.hf.identity import describe_base_model, head_width, vocabulary_size
from s2t_ext.runs.checks import require


def check_base_model(
    base_model: Mapping[str, Any],
    hidden_size: int,
    reserved_ids: Sequence[int],
    model: Any,
    *,
    reads_head: bool,
    where: str,
    name: str,
) -> None:
    """Raises ValueError if a selector was made for another model.

    Args:
        base_model: What it was made for, as `describe_base_model` says it; what is left out is not
            compared.
        hidden_size: Of its rows.
        reserved_ids: Ascending.
        model: The one at hand.
        reads_head: Whether the rows read what the head does; else they read a decoder layer.
        where: The function in the message.
        name: Its argument in the message.
    """
    width = model.config.get_text_config(decoder=True).hidden_size
    if reads_head:
        width = head_width(model)
    rule = f"have rows of the model's hidden size {width}"
    require(width == hidden_size, where, name, rule, hidden_size)
    vocab = vocabulary_size(model)
    if reserved_ids:
        require(
            reserved_ids[-1] < vocab,
            where,
            name,
            f"reserve ids below the vocabulary size {vocab}",
            reserved_ids[-1],
        )
    actual = describe_base_model(model)
    for key in ("model_type", "vocab_size", "num_hidden_layers", "fingerprint"):
        expected = base_model.get(key)
        if expected is not None and actual.get(key) is not None:
            require(
                actual[key] == expected,
                where,
                name,
                f"belong to the model ({key} {actual[key]})",
                f"a selector for {base_model.get('name', 'another model')} ({key} {expected})",
            )
