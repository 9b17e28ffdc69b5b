"""The record of a model's last generation, for code that cannot reach the output itself."""

from __future__ import annotations

import weakref

from torch import nn

from s2t_ext.decoding.record import DecodingRecord
from s2t_ext.hf.unwrapping import unwrap_model

_records: weakref.WeakKeyDictionary[nn.Module, DecodingRecord] = weakref.WeakKeyDictionary()


def keep_record(model: nn.Module, record: DecodingRecord) -> None:
    """Makes it the last one of the model, in place of the one before."""
    _records[model] = record


def last_record(model: nn.Module) -> DecodingRecord | None:
    """What the last generation with Select-to-Think did, by whichever way in: for a patched model,
    a pipeline, a server, or a call without `return_dict_in_generate=True`.

    Args:
        model: The model, in a wrapper of PEFT or `torch.compile` or not.

    Returns:
        The record of the generation that finished last, in any thread; None before the first.
    """
    return _records.get(unwrap_model(model))
