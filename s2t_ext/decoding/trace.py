"""Every step of a generation with its text, candidates and scores, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from s2t_ext.decoding.row_record import RowRecord


@dataclass
class Proposals:
    """What was proposed and scored at every step of a generation, on the CPU.

    Attributes:
        ordinary: int64 [steps, batch], the token without a choice.
        ids: int64 [steps, batch, K], the candidates; -1 where there is none.
        logprobs: fp32 [steps, batch, K], the student's.
        scores: fp32 [steps, batch, K]; NaN where there is none.
    """

    ordinary: torch.Tensor
    ids: torch.Tensor
    logprobs: torch.Tensor
    scores: torch.Tensor

    def of_step(self, step: int, row: int, tokenizer: Any) -> dict[str, Any]:
        """The candidates of one row at one step, and the token without a choice."""
        values = zip(
            self.ids[step, row].tolist(),
            self.logprobs[step, row].tolist(),
            self.scores[step, row].tolist(),
            strict=True,
        )
        return {
            "ordinary": int(self.ordinary[step, row]),
            "candidates": [
                {
                    "id": token,
                    "text": tokenizer.decode([token]),
                    "logprob": finite(logprob),
                    "score": finite(score),
                }
                for token, logprob, score in values
                if token >= 0
            ],
        }


def trace_steps(
    record: RowRecord, proposals: Proposals, tokenizer: Any, row: int
) -> list[dict[str, Any]]:
    """See `DecodingRecord.trace`."""
    special = set(tokenizer.all_special_ids)
    triggered, changed = set(record.triggered_steps), set(record.changed_steps)
    texts = text_pieces(tokenizer, record.tokens)
    return [
        {
            "row": row,
            "step": step,
            "token": token,
            "text": text,
            "special": token in special,
            "entropy": finite(record.entropies[step]),
            "statistic": finite(record.statistics[step]),
            "triggered": step in triggered,
            "changed": step in changed,
            **proposals.of_step(step, row, tokenizer),
        }
        for step, (token, text) in enumerate(zip(record.tokens, texts, strict=True))
    ]


def finite(value: float) -> float | None:
    """None for what JSON has no number for."""
    return value if math.isfinite(value) else None


def text_pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds; a token that leaves a character unfinished adds none.

    Decoded alone, a word may lose the space before it, so each token is decoded after its
    predecessors since the last whole character.
    """
    pieces: list[str] = []
    pending: list[int] = []  # from the last token that is shown on
    shown = ""
    for token in ids:
        pending.append(token)
        text = tokenizer.decode(pending)
        if text.endswith("\ufffd"):  # the bytes of a character are not all there yet
            pieces.append("")
            continue
        pieces.append(text[len(shown) :])
        pending = [token]
        shown = tokenizer.decode(pending)
    return pieces
