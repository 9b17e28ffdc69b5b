"""What a model is made of at this moment, and what a caller has put into it: findings about a model
hold only as long as neither changes.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from s2t_ext.hf.adapters import adapter_layers
from s2t_ext.hf.attention.candidate_attention import attention_implementation
from s2t_ext.hf.hooks import foreign_code, hooks_of
from s2t_ext.hf.row_adapters import RowAdapters

T = TypeVar("T")

logger = logging.getLogger("s2t_ext")

#: Kept on the model itself: a table would keep the model alive, since the findings refer to it.
_ATTRIBUTE = "_s2t_findings"


class _Kept:
    """Findings and the state of the model they belong to; a copy of the model finds its own."""

    def __init__(self, state: Any = None) -> None:
        self.state = state
        self.found: dict[Any, Any] = {}

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


def findings(model: PreTrainedModel) -> dict[Any, Any]:
    """What has been found out about a model in its present state; empty once its modules, hooks,
    adapters, dtype, device, configuration, mode or attention implementation have changed.
    """
    state = _state(model)
    kept = vars(model).get(_ATTRIBUTE)
    if kept is None or kept.state != state:
        kept = vars(model)[_ATTRIBUTE] = _Kept(state)
    found: dict[Any, Any] = kept.found
    return found


def find_once(
    model: PreTrainedModel,
    known: dict[Any, Any],
    name: str,
    find: Callable[[], T],
    otherwise: Callable[[str], T],
) -> T:
    """The finding `name` among those `known` of a model (`findings`): what `find()` returns, run
    once, apart from the caller's autocast and random numbers.

    A model's own code may fail in any way when it is driven outside its beaten path: then the
    finding is `otherwise(the error in words)`, and the reason is logged. An error may be a passing
    one, such as a lack of memory beside another process: it is believed, and not tried again, when
    the same has come twice, and a lack of memory never.
    """
    if name in known:
        found: T = known[name]
        return found
    try:
        with _undisturbed(model):
            found = known[name] = find()
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        errors: list[str] = known.setdefault(f"errors of {name}", [])
        if words not in errors:
            logger.warning("generate: %s of %s: %s", name, type(model).__name__, words)
        found = otherwise(words)
        if words in errors and not _is_lack_of_memory(error):
            known[name] = found
        errors.append(words)
    return found


@contextlib.contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    device = input_device(model).type
    cast = torch.amp.is_autocast_available(device)
    with (
        torch.no_grad(),
        torch.autocast(device, enabled=False) if cast else contextlib.nullcontext(),
        torch.random.fork_rng(devices=[]),
    ):
        yield


def _is_lack_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "out of memory" in words or "alloc_failed" in words


def interference(model: PreTrainedModel) -> str | None:
    """What of the caller's own acts inside the model's forward, in words; None if nothing does.

    A hook or a replaced forward may depend on which tokens and rows share a forward, on their
    number, or on the cache: nothing that was found out by other forwards says how it will act. It
    is not run for finding out, either: it may count its calls.
    """
    if RowAdapters(model).per_row:
        return "its adapters differ from row to row, or from token to token"
    return foreign_code(model)


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its inputs; accelerate takes those of an offloaded one from anywhere."""
    device: torch.device = model.device  # type: ignore[assignment]
    return torch.device("cpu") if device.type == "meta" else device


def accelerators(model: nn.Module) -> list[str]:
    """The accelerators that run parts of a model which accelerate has spread, sorted; layers that
    are kept on the CPU or on disk are run by one of these. Empty for a model that is not spread.
    """
    places = getattr(model, "hf_device_map", {}).values()
    found = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in places}
    return sorted(found - {"cpu", "disk", "meta"})


def _state(model: PreTrainedModel) -> list[Any]:
    """Equal as long as nothing has changed; the modules are not kept alive by it."""
    state: list[Any] = [
        model.dtype,
        model.device,
        attention_implementation(model.config),
        str(model.config.to_dict()),
        model.prepare_inputs_for_generation,  # learned prompts replace it during `generate`
    ]
    for module in model.modules():
        state.append((weakref.ref(module), type(module), type(module).forward, module.training))
        forward = vars(module).get("forward")
        if forward is not None:
            state.append(forward)
        state += [key for key, _ in hooks_of(module)]
    for layer in adapter_layers(model):
        state.append((list(layer.active_adapters), bool(layer.disable_adapters)))
        state.append(bool(getattr(layer, "merged", False)))
    return state
