"""Attention of K candidates over a prefix that every one of them sees whole, without a mask.

The prefix goes through an unmasked kernel, which on a GPU is the flash kernel that a mask would
exclude, and whose log-sum-exp it returns; each candidate's own entry is merged in by

    w = sigmoid(s_own - logsumexp(s_prefix)),   output = (1 - w) output_prefix + w value_own

which is the softmax over both. On a CPU the masked kernel is as fast, so it stays there.
"""

from __future__ import annotations

import torch

#: What the flash kernel takes on a GPU.
FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_HEAD_SIZE = 256


def is_faster(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the flash kernel of a GPU takes these, [batch, heads, length, size] each."""
    return (
        query.device.type == "cuda"
        and query.dtype in FLASH_DTYPES
        and query.shape[-1] == value.shape[-1] <= FLASH_HEAD_SIZE
        and not torch.is_grad_enabled()
        and key.shape[2] > query.shape[2]
    )


def attend_split(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_candidates: int,
    scaling: float,
) -> torch.Tensor:
    """Attention in which candidate j sees the prefix and itself.

    Args:
        query: [batch, kv_heads, groups * K, head_size], the K candidates of one head of the group
            next to each other.
        key: [batch, kv_heads, prefix + K, head_size], prefix >= 1.
        value: [batch, kv_heads, prefix + K, head_size].
        num_candidates: K.
        scaling: Factor on the scores.

    Returns:
        [batch, kv_heads, groups * K, head_size] in the dtype of `value`.
    """
    prefix = key.shape[2] - num_candidates
    groups = query.shape[2] // num_candidates
    output, logsumexp = _unmasked(query, key[:, :, :prefix], value[:, :, :prefix], scaling)
    own_key = key[:, :, prefix:].repeat(1, 1, groups, 1)
    own_value = value[:, :, prefix:].repeat(1, 1, groups, 1)
    score = (query.float() * own_key.float()).sum(-1) * scaling
    weight = torch.sigmoid(score - logsumexp.view(score.shape))[..., None]
    merged = torch.lerp(output.float(), own_value.float(), weight)
    return merged.to(value.dtype)


def _unmasked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(output, log-sum-exp of the scaled scores [batch, kv_heads, queries])."""
    if query.device.type == "cuda":
        found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scaling)
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, scale=scaling
        )
    return found[0], found[1]
