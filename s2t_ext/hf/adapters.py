"""Switching a PEFT adapter off and on inside a decode step (proposal-preserving selection needs
both, every step).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

_FLAG = "_disable_adapters"


class AdapterSwitch:
    """Turns all adapter layers of a model off and on in microseconds, for the calling thread only:
    other generations on the same model, whether of this package or not, keep theirs.

    PEFT's own `disable_adapter()` walks all modules and resets gradient flags, which costs as much
    as a forward pass of a small model, and it acts on every thread. This puts a flag that each
    thread sees in its own way into the place of PEFT's, on a list of layers collected once, and
    reads it back through PEFT's property, so a PEFT that changes the mechanism is noticed instead
    of silently decoding with the wrong weights.

    Raises:
        ValueError: if the model has no adapter layers, or they are merged.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = adapter_layers(model)
        if not self._layers:
            raise ValueError(
                "generate: model must have an unmerged PEFT adapter for proposer='base', got none"
            )
        if any(getattr(layer, "merged", False) for layer in self._layers):
            raise ValueError(
                "generate: adapter must be unmerged for proposer='base', got a merged one: "
                "call unmerge_adapter()"
            )

    def off(self) -> contextlib.AbstractContextManager[None]:
        """The base model, inside the block."""
        return self._switched(True)

    def on(self) -> contextlib.AbstractContextManager[None]:
        """The adapted model, inside the block."""
        return self._switched(False)

    @contextlib.contextmanager
    def _switched(self, disabled: bool) -> Iterator[None]:
        seen = self._install()
        before = seen.disabled
        seen.disabled = disabled
        try:
            if bool(self._layers[0].disable_adapters) != disabled:
                raise RuntimeError(
                    "generate: this version of peft switches adapters differently; "
                    "proposer='base' is unavailable"
                )
            yield
            if not isinstance(vars(self._layers[0]).get(_FLAG), _ThreadFlag):
                raise RuntimeError(
                    "generate: adapters must not be switched by others during proposer='base', got "
                    "a call of enable_adapters() or disable_adapter()"
                )
        finally:
            seen.disabled = before
            self._release()

    def _install(self) -> _Seen:
        """The view that this thread shares with its other switches of the same layers."""
        with _flags:
            flag = vars(self._layers[0]).get(_FLAG)
            view = flag.view if isinstance(flag, _ThreadFlag) else _View()
            view.users += 1
            if view.users == 1:
                for layer in self._layers:
                    own = bool(vars(layer).get(_FLAG, False))
                    vars(layer)[_FLAG] = _ThreadFlag(view, own)
        return view.seen

    def _release(self) -> None:
        with _flags:
            flags = [vars(layer).get(_FLAG) for layer in self._layers]
            views = {id(flag.view): flag.view for flag in flags if isinstance(flag, _ThreadFlag)}
            for view in views.values():
                view.users -= 1
            for layer, flag in zip(self._layers, flags, strict=True):
                if isinstance(flag, _ThreadFlag) and flag.view.users == 0:
                    vars(layer)[_FLAG] = flag.own


@contextlib.contextmanager
def unswitched(layers: Sequence[Any]) -> Iterator[None]:
    """Adapters as their owner has set them, inside the block and for the calling thread, whatever
    an `AdapterSwitch` around it does.

    Args:
        layers: The adapter layers of one model (`adapter_layers`); none is no error.
    """
    flag = vars(layers[0]).get(_FLAG) if layers else None
    if not isinstance(flag, _ThreadFlag):
        yield
        return
    seen = flag.view.seen
    before, seen.disabled = seen.disabled, None
    try:
        yield
    finally:
        seen.disabled = before


class _Seen(threading.local):
    #: What this thread has switched to; None leaves the layers as they are.
    disabled: bool | None = None


class _View:
    """One switch of a model's layers, as all threads share it."""

    def __init__(self) -> None:
        self.seen = _Seen()
        self.users = 0


class _ThreadFlag:
    """Stands in for PEFT's `_disable_adapters`: true or false as the asking thread has switched."""

    def __init__(self, view: _View, own: bool) -> None:
        self.view = view
        self.own = own

    def __bool__(self) -> bool:
        disabled = self.view.seen.disabled
        return self.own if disabled is None else disabled

    def __reduce__(self) -> tuple[type[bool], tuple[bool]]:
        return bool, (self.own,)  # copies of the model are not switched


_flags = threading.Lock()


def adapter_layers(model: nn.Module) -> list[Any]:
    """The modules of a model that hold adapter weights; empty without peft."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper
    except ImportError:
        return []
    return [m for m in model.modules() if isinstance(m, (BaseTunerLayer, AuxiliaryTrainingWrapper))]


def has_adapter(model: nn.Module) -> bool:
    """Whether the model holds adapter layers."""
    return bool(adapter_layers(model))


def active_adapters(model: nn.Module) -> set[str]:
    """The names of the adapters that are in use; empty if they are disabled."""
    layers = (layer for layer in adapter_layers(model) if not layer.disable_adapters)
    return {name for layer in layers for name in layer.active_adapters}


def adapter_weights(model: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The parameters of one adapter, by their names within the transformers model."""
    layers = {id(layer) for layer in adapter_layers(model)}
    found = {}
    for path, module in model.named_modules():
        if id(module) in layers:
            for own, parameter in module.named_parameters():
                if f".{name}." in f".{own}.":
                    found[f"{path}.{own}"] = parameter
    return found
