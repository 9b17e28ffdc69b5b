"""Attention of a candidate forward: [prefix | pending tokens | K candidates] in one pass.

Pending tokens are causal; every candidate sees the prefix, the pending tokens and itself, never
another candidate. The implementation is registered with transformers under `ATTENTION_NAME` and
switched on only while a candidate forward runs, so ordinary forwards keep the user's own
implementation, bit for bit.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from s2t_ext.hf.attention import split_attention
from s2t_ext.hf.attention.layout import AttentionLayout
from s2t_ext.hf.generate_internals import private

ATTENTION_NAME = "s2t_candidates"


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    allowed: torch.Tensor,
    scaling: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Masked attention with grouped queries packed, so keys and values are never repeated.

    Args:
        query: [batch, heads, q, head_dim].
        key: [batch, kv_heads, n, head_dim].
        value: [batch, kv_heads, n, value_dim].
        allowed: Bool [batch or 1, 1, groups * q, n], groups = heads / kv_heads.
        scaling: Factor on the scores.
        softcap: s -> softcap * tanh(s / softcap).
        sinks: Extra logit per head, [heads].

    Returns:
        [batch, q, heads, value_dim].
    """
    batch, heads, queries, _ = query.shape
    kv_heads = key.shape[1]
    packed = _packed_heads(query, kv_heads)
    if softcap is None and sinks is None:
        output = F.scaled_dot_product_attention(
            packed, key, value, attn_mask=allowed, scale=scaling
        )
    else:
        scores = (packed @ key.transpose(-1, -2)) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.float().masked_fill(~allowed, float("-inf"))
        if sinks is not None:
            sink = sinks.float().view(1, kv_heads, -1, 1).expand(batch, -1, -1, queries)
            scores = torch.cat([scores, sink.reshape(batch, kv_heads, -1, 1)], dim=-1)
        weights = scores.softmax(dim=-1)[..., : key.shape[2]].to(value.dtype)
        output = weights @ value
    return _unpacked_heads(output, heads, queries)


def _packed_heads(query: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[batch, heads, q, size] -> [batch, kv_heads, groups * q, size]."""
    batch, heads, queries, size = query.shape
    return query.reshape(batch, kv_heads, heads // kv_heads * queries, size)


def _unpacked_heads(output: torch.Tensor, heads: int, queries: int) -> torch.Tensor:
    """[batch, kv_heads, groups * q, size] -> [batch, q, heads, size]."""
    return output.reshape(output.shape[0], heads, queries, -1).transpose(1, 2).contiguous()


class _Active(threading.local):
    layout: AttentionLayout | None = None


@dataclass
class _Installed:
    config: Any  # kept alive, so its id stays its own
    original: str  # the user's implementation
    users: int = 0  # candidate forwards now running on it


_active = _Active()
_install_lock = threading.Lock()
#: By id of the config. Entries stay: a forward of another thread may have read the switched name
#: just before it was restored.
_installed: dict[int, _Installed] = {}


def _candidate_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> Any:
    layout = _active.layout
    if layout is None:
        return _delegate(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    if kwargs.get("position_bias") is not None:
        raise NotImplementedError("candidate attention: position_bias must be None, got a tensor")
    queries = layout.num_queries
    if layout.ragged is not None:
        query = layout.ragged.unpack_heads(query)
    window = kwargs.get("sliding_window") or None
    if window is not None and key.shape[2] - queries > window - 1:
        visible = window - 1 + queries
        key, value = key[:, :, -visible:], value[:, :, -visible:]
    groups = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    plain = window is None and softcap is None and sinks is None
    if plain and layout.unmasked_candidates and split_attention.is_faster(query, key, value):
        packed = _packed_heads(query, key.shape[1])
        output = split_attention.attend_split(packed, key, value, queries, scale)
        return _unpacked_heads(output, query.shape[1], queries), None
    allowed = layout.allowed(key.shape[2], window, groups, query.device)
    output = attend(query, key, value, allowed, scale, softcap, sinks)
    return output if layout.ragged is None else layout.ragged.pack(output), None


def _candidate_mask(*args: Any, **kwargs: Any) -> Any:
    """No mask tensor in a candidate forward; the user's own mask function in any other."""
    if _active.layout is not None:
        return None
    return AttentionMaskInterface()[_original_implementation(kwargs["config"])](*args, **kwargs)


def _original_implementation(config: Any) -> str:
    return _installed[id(config)].original


def _delegate(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Another thread's ordinary forward while a candidate forward runs on the same model."""
    name = _original_implementation(module.config)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return AttentionInterface().get_interface(name, eager)(module, *args, **kwargs)


@contextlib.contextmanager
def candidate_attention(configs: list[Any], layout: AttentionLayout) -> Iterator[None]:
    """Runs the forwards inside it as candidate forwards of `layout`; `configs` come from
    `attention_configs(model)`.
    """
    with _install_lock:
        # Read every original before switching any: assigning to a config also assigns to its
        # sub-configs.
        entries = [
            _installed.setdefault(id(c), _Installed(c, c._attn_implementation)) for c in configs
        ]
        for entry in entries:
            if entry.users == 0:
                entry.original = entry.config._attn_implementation
            entry.users += 1
        for config in configs:
            config._attn_implementation = ATTENTION_NAME
    previous, _active.layout = _active.layout, layout
    try:
        yield
    finally:
        _active.layout = previous
        with _install_lock:
            for entry in entries:
                entry.users -= 1
            for entry in entries:
                if entry.users == 0:
                    entry.config._attn_implementation = entry.original


def attention_implementation(config: Any) -> str:
    """The user's own, also while a candidate forward of another thread has switched it."""
    with _install_lock:
        name: str = private(config, "_attn_implementation")
        return _original_implementation(config) if name == ATTENTION_NAME else name


def unknown_attention(config: Any) -> str | None:
    """The name of the user's attention implementation, if transformers does not bring it itself."""
    name = attention_implementation(config)
    function = AttentionInterface().get(name)  # eager ones lie with their models
    if function is None:
        return None if name == "eager" else name
    return None if function.__module__.startswith("transformers.") else name


def attention_configs(model: PreTrainedModel) -> list[Any]:
    """The distinct configurations of a model and its submodels, to pass to
    `candidate_attention`.
    """
    found = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    return list(found.values())


AttentionInterface.register(ATTENTION_NAME, _candidate_attention)
AttentionMaskInterface.register(ATTENTION_NAME, _candidate_mask)
