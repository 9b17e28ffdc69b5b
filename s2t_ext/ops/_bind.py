"""Ties an operator's three bodies together: native kernel, fake, reference."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from s2t_ext.native import library as _library


def bind(name: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """The callable behind a public wrapper; takes the schema's arguments by their names.

    With the native library it is the operator itself: CPU and CUDA tensors reach the kernels, any
    other device (and CUDA, if only the CPU kernels were built) reaches the reference. Without the
    library it is the reference.

    Args:
        name: the operator's, without its namespace.
        reference: the result in plain PyTorch; takes all arguments of the schema by name.
        fake: empty tensors of the result's shapes and dtypes; takes all arguments by name, those
            it does not need as `**_`.
    """
    if not _library.is_loaded():
        return reference
    overload = getattr(torch.ops.s2t_ext, name).default
    names = [argument.name for argument in overload._schema.arguments]

    def by_name(body: Callable[..., Any]) -> Callable[..., Any]:
        # torch passes arguments by position, and leaves out those that equal their default.
        return lambda *values, **named: body(**dict(zip(names, values, strict=False)), **named)

    qualified_name = f"s2t_ext::{name}"
    torch.library.impl(qualified_name, "default", by_name(reference))
    torch.library.register_fake(qualified_name, by_name(fake))
    return cast(Callable[..., Any], overload)


_bins: dict[tuple[int, torch.device], Tensor] = {}


def default_bin_values(rows: Tensor) -> Tensor:
    """linspace(0, 1, R) on the device of `rows`, made once."""
    key = (rows.shape[0], rows.device)
    bins = _bins.get(key)
    if bins is None:
        bins = torch.linspace(0.0, 1.0, rows.shape[0], dtype=torch.float32, device=rows.device)
        # A tracer's stand-in must not outlive its trace; memory of a graph that is being captured
        # holds the values only after the graph's first replay.
        if type(bins) is Tensor and not _is_capturing(rows):
            _bins[key] = bins
    return bins


def _is_capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def random_state(
    op: str,
    score_temperature: float,
    seed: Tensor | None,
    position: Tensor | None,
    unread: Tensor,
) -> tuple[Tensor, Tensor]:
    """Seed and position for the operator, which reads them only when it samples.

    `unread` has their shape and dtype and stands in for what was not given.
    """
    if score_temperature > 0:
        if seed is None:
            raise RuntimeError(f"{op}: seed must be given when score_temperature > 0, got None")
        if position is None:
            raise RuntimeError(f"{op}: position must be given when score_temperature > 0, got None")
    return unread if seed is None else seed, unread if position is None else position
