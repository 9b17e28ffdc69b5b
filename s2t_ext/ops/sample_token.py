"""Sample: wrapper and fake."""

from typing import Any

import torch
from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind
from s2t_ext.ops.reference.sample_token import SampledToken


def sample_token(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    position: Tensor,
    blocked_ids: Tensor | None = None,
) -> SampledToken:
    """Draw the ordinary next token of every row: temperature, then top-k, top-p, min-p.

    Of the tokens in the order (logit, larger first; id, smaller first), top-k keeps the first k
    and all others whose logit equals that of the k-th (as transformers does), top-p those before
    which less than p of the remaining mass lies, min-p those with at least min_p times the
    probability of the best; the best is always kept. One uniform number per row is looked up in
    the cumulated probabilities of the kept tokens in the order of their ids.

    Args:
        logits: float32, bfloat16 or float16 [batch, vocab]; last stride 1, any row stride.
        temperature: float32 [batch]; 0 or below takes the best token.
        top_k: int64 [batch]; 0 or below keeps all.
        top_p: float32 [batch]; 1 or above keeps all.
        min_p: float32 [batch]; 0 or below keeps all.
        seed: int64 [batch]; a row's draw depends on its seed, position and logits alone.
        position: int64 [batch].
        blocked_ids: int64 [at most 64] ids in [0, vocab) that are never drawn.

    Returns:
        SampledToken: token int64 [batch], -1 in a row without a valid token; logprob float32
        [batch] of the token under softmax of the row with the blocked ids removed, before
        temperature and truncation. With a logit of +inf the first such token is taken, logprob 0.

    Raises:
        RuntimeError: wrong rank, shape, dtype or device, or a blocked id out of range.
    """
    return SampledToken._make(
        _op(
            logits=logits,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            seed=seed,
            position=position,
            blocked_ids=blocked_ids,
        )
    )


def _fake(logits: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    batch = logits.shape[0]
    return (
        logits.new_empty(batch, dtype=torch.int64),
        logits.new_empty(batch, dtype=torch.float32),
    )


_op = bind("sample_token", reference.sample_token, _fake)
