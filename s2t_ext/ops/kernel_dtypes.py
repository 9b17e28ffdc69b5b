"""Tensors as callers hand them over, in the dtypes the kernels read."""

from __future__ import annotations

from typing import Any

import torch

#: What the kernels read as it is; wider and narrower ones become float32.
KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def floating(where: str, name: str, value: Any, *, rule: str = "hold numbers") -> torch.Tensor:
    """A tensor without gradient in a dtype the kernels read, from a tensor, an array or a list.

    Raises:
        ValueError: if it holds no numbers, as on the meta device, or some that are not finite.
    """
    if not isinstance(value, torch.Tensor):
        try:
            value = torch.as_tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: {name} must {rule}, got {value!r}") from error
    if value.is_meta or value.layout is not torch.strided:
        kind = "a tensor on the meta device" if value.is_meta else str(value.layout)
        raise ValueError(f"{where}: {name} must be a dense tensor in memory, got {kind}")
    tensor: torch.Tensor = value.detach()
    if tensor.dtype not in KERNEL_DTYPES:
        tensor = tensor.float()
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{where}: {name} must be finite, got NaN or infinities")
    return tensor


def for_kernels(tensor: torch.Tensor) -> torch.Tensor:
    """Logits or states in a dtype the kernels read; the others become float32."""
    return tensor if tensor.dtype in KERNEL_DTYPES else tensor.float()
