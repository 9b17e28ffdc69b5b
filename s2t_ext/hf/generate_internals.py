"""What lies below the public names of `generate`: every private name of it that the loop rests on,
and the public ones that do not reach transformers' top level.

The names differ between releases of transformers; `check_release` says so before a loop starts.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import Cache, CompileConfig, GenerationConfig, PreTrainedModel, StaticCache
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL

from s2t_ext.hf.cache_argument import ALL_CACHE_NAMES

__all__ = [
    "MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL",
    "BaseStreamer",
    "CallAtTheDoor",
    "GenerateCall",
    "GenerateDecoderOnlyOutput",
    "GenerationMode",
    "arguments_of_generate",
    "call_at_the_door",
    "check_release",
    "compile_options",
    "experts_for_decoding",
    "new_static_cache",
    "pad_token_id",
    "prefill",
    "update_model_kwargs",
]

#: Releases of transformers the decode loop is tested with: the first, and the first that is not.
SUPPORTED = ("5.17", "5.25")


def check_release(installed: str = transformers.__version__) -> None:
    """Raises ImportError if the decode loop does not know this release of transformers.

    Operators, selectors, triggers and the reference work with any release that can be imported.
    """
    first, end = SUPPORTED
    if not Version(first) <= Version(Version(installed).base_version) < Version(end):
        raise ImportError(
            f"generate: transformers must be at least {first} and below {end} (the decode loop "
            f"rests on parts of it that change between releases), got {installed}: "
            f"pip install 'transformers>={first},<{end}'"
        )


def private(owner: Any, name: str) -> Any:
    """`owner.name`, for names transformers does not promise to keep.

    Raises:
        ImportError: naming the missing name, the installed release, and what to do.
    """
    if not hasattr(owner, name):
        kind = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        first, end = SUPPORTED
        raise ImportError(
            f"generate: transformers must have {kind}.{name}, got release "
            f"{transformers.__version__} without it: pip install 'transformers>={first},<{end}'"
        )
    return getattr(owner, name)


@dataclass(frozen=True)
class GenerateCall:
    """What a `custom_generate` callable is not told about the call it serves.

    Attributes:
        streamer: The caller's, or None.
        assistant_model: The caller's, or None.
        synced_gpus: Whether all processes must go on until the last has finished.
        cache: The caller's own cache, or None.
        mask_length: Columns of the caller's attention mask, or None.
    """

    streamer: Any = None
    assistant_model: Any = None
    synced_gpus: bool = False
    cache: Any = None
    mask_length: int | None = None


def arguments_of_generate() -> GenerateCall:
    """The call of `generate` that is running a `custom_generate` callable.

    transformers hands such a callable only the arguments that `_sample` does not name, without a
    word about the others. Reading them from the frame of `generate` is what lets a streamer work,
    and an assistant model be refused, instead of being silently ignored.

    Raises:
        RuntimeError: if no frame of `generate` is found among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "generate" and "custom_generate" in frame.f_locals:
            return _call_of(frame.f_locals)
        frame = frame.f_back
    raise RuntimeError(
        "generate: decoding_method() must be called by model.generate of a transformers release "
        f"whose arguments it can read, got none in release {transformers.__version__}"
    )


@dataclass(frozen=True)
class CallAtTheDoor:
    """A `generate` call that has not acted on any of its arguments.

    Attributes:
        model: Whose `generate` it is.
        generation_config: The caller's, or None.
        keywords: Those that `generate` does not name. What is written here it will act on, and hand
            to a callable that names it.
    """

    model: PreTrainedModel
    generation_config: GenerationConfig | None
    keywords: dict[str, Any]


def call_at_the_door(method: Any) -> CallAtTheDoor | None:
    """The `generate` call that is looking at the callable `method`; None outside of such a call."""
    frame = inspect.currentframe()
    caller = None if frame is None or frame.f_back is None else frame.f_back.f_back
    del frame  # a frame that names itself would keep its callers' models and caches alive
    if caller is None or caller.f_code.co_name != "generate":
        return None
    found = caller.f_locals
    if found.get("custom_generate") is not method or "self" not in found or "kwargs" not in found:
        return None
    return CallAtTheDoor(found["self"], found.get("generation_config"), found["kwargs"])


def _call_of(arguments: Mapping[str, Any]) -> GenerateCall:
    others = arguments.get("kwargs", {})
    mask = others.get("attention_mask")
    caches = (others[name] for name in ALL_CACHE_NAMES if others.get(name) is not None)
    return GenerateCall(
        streamer=arguments.get("streamer"),
        assistant_model=arguments.get("assistant_model"),
        synced_gpus=bool(arguments.get("synced_gpus")),
        cache=next(caches, None),
        mask_length=None if mask is None else int(mask.shape[1]),
    )


def prefill(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> Any:
    """Takes the prompt through the model as `generate` does: a given cache, embeddings and
    `prefill_chunk_size` are honoured. Returns the model's outputs.
    """
    return private(model, "_prefill")(input_ids, generation_config, model_kwargs)


def update_model_kwargs(
    model: PreTrainedModel, outputs: Any, model_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Mask, positions and cache for one more token than `outputs` belong to."""
    updated: dict[str, Any] = private(model, "_update_model_kwargs_for_generation")(
        outputs, model_kwargs
    )
    return updated


def compile_options(
    model: PreTrainedModel, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
) -> CompileConfig | None:
    """How transformers compiles the forwards of this generation; None where it does not."""
    states = next((model_kwargs[n] for n in ALL_CACHE_NAMES if n in model_kwargs), None)
    if states is not None and not isinstance(states, Cache):
        return None  # states of a model's own kind, which it first shows after the prompt
    if not private(model, "_valid_auto_compile_criteria")(model_kwargs, generation_config):
        return None
    return generation_config.compile_config or CompileConfig()


@contextlib.contextmanager
def experts_for_decoding(model: PreTrainedModel) -> Iterator[None]:
    """Experts by batched instead of grouped products, which is faster for the few tokens of a
    step on an accelerator; what `generate` does too.
    """
    before = model.get_experts_implementation()
    if model.device.type == "cpu" or "grouped_mm" not in before.values():
        yield
        return
    switched = {k: "batched_mm" if v == "grouped_mm" else v for k, v in before.items()}
    model.set_experts_implementation(switched)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def new_static_cache(
    model: PreTrainedModel, generation_config: GenerationConfig, length: int
) -> StaticCache:
    """An empty static cache for `length` tokens, of the kind `generate` makes itself."""
    return StaticCache(
        config=model.config.get_text_config(decoder=True),
        max_cache_len=length,
        offloading="offloaded" in (generation_config.cache_implementation or ""),
    )


def pad_token_id(generation_config: GenerationConfig) -> int:
    """What finished rows emit: the pad token, else the first end-of-sequence token, else 0."""
    for given in (generation_config.pad_token_id, generation_config.eos_token_id):
        tokens = [] if given is None else torch.as_tensor(given, device="cpu").flatten().tolist()
        if tokens:
            return int(tokens[0])
    return 0
