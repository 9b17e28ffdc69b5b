"""The layers a cache is made of: their kinds, which have no name at transformers' top level, and
the kinds a model asks for.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    QuantizedLayer,
    StaticLayer,
    get_layer_types_and_kwargs,
)

try:
    from transformers.cache_utils import DummyLayer
except ImportError:  # before 5.23, layers that keep nothing have no entry in a cache

    class DummyLayer:  # type: ignore[no-redef]
        """No layer of this release is one."""


__all__ = [
    "CacheLayerMixin",
    "DummyLayer",
    "DynamicLayer",
    "StaticLayer",
    "layer_kinds",
    "reorders_rows",
]


def layer_kinds(config: PretrainedConfig) -> list[tuple[str, dict[str, Any]]]:
    """(kind, options) of every cache layer of a model: "full_attention", "sliding_attention" (with
    `sliding_window`), "dummy", or the name of a kind that holds no alternatives.
    """
    kinds, options = get_layer_types_and_kwargs(config)
    if isinstance(options, dict):  # before 5.21, one set of options for all layers
        windowed = ("sliding_attention", "chunked_attention")
        options = [options if kind in windowed else {} for kind in kinds]
    return list(zip(kinds, options, strict=True))


def reorders_rows(layer: CacheLayerMixin) -> bool:
    """Whether `reorder_cache` reaches all of a layer's rows. Before transformers 5.19 the quantised
    part of a quantised layer stays as it was.
    """
    inherited = type(layer).reorder_cache is DynamicLayer.reorder_cache
    return not (isinstance(layer, QuantizedLayer) and inherited)
