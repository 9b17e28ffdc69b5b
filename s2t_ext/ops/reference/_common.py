"""What several references share: argument checks, and logits as the contract reads them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_CANDIDATES = 64
MAX_BLOCKED_IDS = 64
MAX_BINS = 64

LOGIT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Bits of `status` (csrc/core/status.h).
STATUS_NAN_SEEN = 1
STATUS_NO_VALID_TOKEN = 2
STATUS_INF_SEEN = 4
STATUS_FEWER_THAN_K = 8


def require(condition: bool, op: str, argument: str, requirement: str, got: object) -> None:
    """Raise what the native operator raises: `<op>: <argument> must <requirement>, got <value>`."""
    if not condition:
        raise RuntimeError(f"{op}: {argument} must {requirement}, got {got}")


def shape_text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def require_shape(op: str, argument: str, tensor: Tensor, shape: Sequence[int], text: str) -> None:
    require(
        tuple(tensor.shape) == tuple(shape),
        op,
        argument,
        f"have shape {text} = {shape_text(shape)}",
        shape_text(tensor.shape),
    )


def require_rank(op: str, argument: str, tensor: Tensor, rank: int, text: str) -> None:
    require(
        tensor.dim() == rank,
        op,
        argument,
        f"have {rank} dimensions {text}",
        shape_text(tensor.shape),
    )


def require_dtype(op: str, argument: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    text = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
    got = str(tensor.dtype).removeprefix("torch.")
    require(tensor.dtype in dtypes, op, argument, f"be {text}", got)


def require_device(op: str, argument: str, tensor: Tensor, like: Tensor, like_name: str) -> None:
    require(
        tensor.device == like.device,
        op,
        argument,
        f"be on the device of {like_name} ({like.device})",
        tensor.device,
    )


def usable_logits(logits: Tensor, blocked_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits in float64 with blocked and NaN entries at -inf; and where a NaN was, bool [batch].

    A blocked entry is not looked at: a NaN there is no NaN. -0 becomes +0.
    """
    x = logits.double() + 0.0
    if blocked_ids is not None:
        x = x.index_fill(1, blocked_ids, -math.inf)
    is_nan = x.isnan()
    return x.masked_fill(is_nan, -math.inf), is_nan.any(dim=1)


def log_probabilities(x: Tensor) -> Tensor:
    """log softmax over the last dimension, defined for every row.

    Entries at -inf have probability 0. A row with no other entry is all -inf. In a row with a
    +inf, the first of them has all the mass.
    """
    infinite = x == math.inf
    first_infinite = infinite & (infinite.cumsum(-1) == 1)
    has_infinite = infinite.any(-1, keepdim=True)
    x = torch.where(has_infinite, torch.where(first_infinite, 0.0, -math.inf), x)
    # Differences first: beside a logit of 1e38 the logarithm of a sum is lost even in float64.
    best = x.max(dim=-1, keepdim=True).values
    x = x - torch.where(best == -math.inf, 0.0, best)
    total = torch.logsumexp(x, -1, keepdim=True)
    return torch.where(total == -math.inf, -math.inf, x - total)


def entropy(log_p: Tensor) -> Tensor:
    """-sum p log p over the last dimension, in nats, with 0 log 0 = 0."""
    p = log_p.exp()
    return torch.where(p > 0, -p * log_p, 0.0).sum(-1) + 0.0
