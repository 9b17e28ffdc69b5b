"""Every step of a generation with its text, candidates and scores, as plain values."""

from __future__ import annotations

from typing import Any

from s2t_ext.decoding.record import StepEvent


class StepTrace:
    """Collects the steps of a generation: `generate(..., on_step=StepTrace(tokenizer))`.

    Args:
        tokenizer: Turns tokens into text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.events: list[StepEvent] = []

    def __call__(self, event: StepEvent) -> None:
        """Keeps a step; tensors are read in `steps`, so no step waits for the device."""
        self.events.append(event)

    def steps(self, row: int = 0) -> list[dict[str, Any]]:
        """The steps of one sequence.

        Args:
            row: Its place in the batch.

        Returns:
            Per token: row, step, token, text, special, entropy, statistic, triggered, changed,
            ordinary (the token without a choice) and candidates: id, text, logprob and, where a
            choice was made, score.
        """
        mine = [event for event in self.events if bool(event.active[row])]
        texts = text_pieces(self.tokenizer, [int(event.tokens[row]) for event in mine])
        special = set(self.tokenizer.all_special_ids)
        return [
            {
                "row": row,
                "step": event.step,
                "token": int(event.tokens[row]),
                "text": text,
                "special": int(event.tokens[row]) in special,
                "entropy": float(event.entropy[row]),
                "statistic": float(event.statistic[row]),
                "triggered": bool(event.triggered[row]),
                "changed": bool(event.changed[row]),
                "ordinary": int(event.ordinary[row]),
                "candidates": self._candidates(event, row),
            }
            for event, text in zip(mine, texts, strict=True)
        ]

    def _candidates(self, event: StepEvent, row: int) -> list[dict[str, Any]]:
        ids = event.candidates[row].tolist()
        absent = [None] * len(ids)
        logprobs = absent if event.logprobs is None else event.logprobs[row].tolist()
        scored = event.scores is not None and bool(event.triggered[row])
        scores = event.scores[row].tolist() if event.scores is not None and scored else absent
        return [
            {"id": token, "text": self.tokenizer.decode([token]), "logprob": p, "score": score}
            for token, p, score in zip(ids, logprobs, scores, strict=True)
            if token >= 0
        ]


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
