"""Adapters that differ from row to row (`adapter_names`, `task_ids`), or begin at a token of
each row (activated LoRA): PEFT sets them up for the rows of one call of `generate`, and a
candidate forward has others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import getclosurevars, isfunction
from typing import Any

import torch
from torch import nn

from s2t_ext.hf.adapters import adapter_layers
from s2t_ext.hf.hooks import hooks_of

#: Keywords by which PEFT's hooks tell its layers what holds for each row.
_PER_ROW = ("adapter_names", "alora_offsets", "task_ids")


class RowAdapters:
    """What PEFT has set up for each row of the running call of `generate`.

    Attributes:
        per_row: Keyword of PEFT's layers -> one entry per row of the call; empty where all rows
            have the same adapter.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[nn.Module] = []
        self.per_row: dict[str, Sequence[Any] | torch.Tensor] = {}
        for layer in adapter_layers(model):
            told = [_told_by(hook) for _, hook in hooks_of(layer)]
            found = {n: k[n] for k in told for n in _PER_ROW if k.get(n) is not None}
            if found:
                self._layers.append(layer)
                self.per_row.update(found)

    @contextlib.contextmanager
    def of(self, rows: torch.Tensor) -> Iterator[None]:
        """Forwards inside take row `rows[i]`'s adapter for their row i, rows int64 [n]; each of
        them takes one token per row, or all of a row's.
        """
        if not self.per_row:
            yield
            return
        index = rows.tolist()
        chosen = {
            name: values[rows.to(values.device)]
            if isinstance(values, torch.Tensor)
            else [values[i] for i in index]
            for name, values in self.per_row.items()
        }
        hook = partial(_tell, threading.get_ident(), chosen)
        # After PEFT's own hooks, so that it has the last word.
        handles = [x.register_forward_pre_hook(hook, with_kwargs=True) for x in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _told_by(hook: Callable[..., Any]) -> dict[str, Any]:
    """What a hook of PEFT adds to its layer's keywords: it holds them as those of a `partial`, or
    as variables of the function around it.
    """
    if isinstance(hook, partial):
        return hook.keywords
    return dict(getclosurevars(hook).nonlocals) if isfunction(hook) else {}


def _tell(
    thread: int,
    chosen: dict[str, Any],
    module: nn.Module,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if threading.get_ident() != thread:
        return None
    return arguments, {**keywords, **chosen}
