"""Select: wrapper and fake."""

from typing import Any

from torch import Tensor

from s2t_ext.ops import reference
from s2t_ext.ops._bind import bind, random_state
from s2t_ext.ops.reference.select_token import SelectedToken


def select_token(
    ids: Tensor,
    *,
    scores: Tensor,
    triggered: Tensor,
    default_token: Tensor,
    finished: Tensor,
    pad_id: int,
    score_temperature: float = 0.0,
    seed: Tensor | None = None,
    position: Tensor | None = None,
) -> SelectedToken:
    """The next token of every row: chosen by score, ordinary, or padding.

    Args:
        ids: int64 [batch, k], k from 1 to 64, best candidate first; -1 marks an empty slot.
        scores: float32 [batch, k]. A slot whose score is NaN or -inf is never chosen.
        triggered: bool [batch]: the row chooses. Otherwise it takes its default token, slot 0.
        default_token: int64 [batch]; also taken by a triggered row without a usable candidate.
        finished: bool [batch]: the row gives `pad_id`, slot 0.
        pad_id: token of finished rows.
        score_temperature: 0 takes the best score, equal scores by earlier slot; above 0 a slot is
            drawn from softmax(scores / score_temperature).
        seed: int64 [batch], needed for drawing: a row's draw depends on its seed and position
            alone.
        position: int64 [batch].

    Returns:
        SelectedToken: token and slot, int64 [batch].

    Raises:
        RuntimeError: wrong rank, shape, dtype or device; no seed or position when drawing.

    Source: y_t = argmax over C_t of Select to Think (arXiv 2604.26940).
    """
    seed, position = random_state("select_token", score_temperature, seed, position, default_token)
    return SelectedToken._make(
        _op(
            ids=ids,
            scores=scores,
            triggered=triggered,
            default_token=default_token,
            finished=finished,
            pad_id=pad_id,
            score_temperature=score_temperature,
            seed=seed,
            position=position,
        )
    )


def _fake(ids: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    batch = ids.shape[0]
    return ids.new_empty(batch), ids.new_empty(batch)


_op = bind("select_token", reference.select_token, _fake)
