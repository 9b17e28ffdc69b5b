"""The sequences of one generation: their tokens so far, and which of them go on."""

from __future__ import annotations

import torch
from transformers import StoppingCriteriaList


class Sequences:
    """Tokens in, and the question who goes on; with one read of the device per ordinary step.

    Args:
        input_ids: [batch, length], the prompts; int32 ones become int64 with the first token.
        criteria: As transformers prepared them.
        scores: The list that is filled when scores are kept (criteria may read it), or None.

    Attributes:
        input_ids: With every token appended so far.
        position: int64 [batch], tokens appended.
        unfinished: Bool [batch].
        without_logits: Bool [batch], rows that stopped because no logit was valid.
        any_goes_on: Whether some row is unfinished; known on the host after `append`.
    """

    def __init__(
        self,
        input_ids: torch.Tensor,
        criteria: StoppingCriteriaList,
        scores: list[torch.Tensor] | None,
    ) -> None:
        self.input_ids = input_ids
        self.criteria = criteria
        self.scores = scores
        batch = input_ids.shape[0]
        self.unfinished = input_ids.new_ones(batch, dtype=torch.bool)
        self.position = input_ids.new_zeros(batch, dtype=torch.int64)
        self.without_logits = torch.zeros_like(self.unfinished)
        self.any_goes_on = True
        self._has_eos = any(hasattr(criterion, "eos_token_id") for criterion in criteria)
        # The user's own may count their calls.
        self._may_ask_twice = all(type(c).__module__.startswith("transformers.") for c in criteria)
        #: (input_ids, unfinished) after this step, as far as they are known before a choice.
        self._ahead: tuple[torch.Tensor, torch.Tensor] | None = None

    def stop_without_logits(self, rows: torch.Tensor) -> None:
        """Rows (bool [batch]) whose logits hold nothing valid stop; the others go on."""
        self.without_logits = self.without_logits | (rows & self.unfinished)
        self.unfinished = self.unfinished & ~rows

    def padding_rows(self) -> torch.Tensor:
        """Rows that emit the pad token: finished ones, if there is an end-of-sequence token, and
        those that had to stop.
        """
        return ~self.unfinished if self._has_eos else self.without_logits

    def any_triggered(self, triggered: torch.Tensor, default: torch.Tensor) -> bool:
        """Whether any row needs a choice, and, if none does, whether any row goes on with the
        `default` tokens: both answers in the one read for which an ordinary step waits for the
        device.

        Criteria of the user's own are asked once per step, about its final tokens.
        """
        if not self._may_ask_twice:
            return bool(triggered.any())
        self._ahead = self._with(default)
        answers = int(triggered.any() + 2 * self._ahead[1].any())
        self.any_goes_on = answers >= 2
        return answers % 2 == 1

    def append(self, tokens: torch.Tensor, *, chosen: bool) -> None:
        """One token of every row, int64 [batch]; `chosen`: they are not the default ones."""
        if chosen or self._ahead is None:
            self._ahead = self._with(tokens)
            self.any_goes_on = bool(self._ahead[1].any())
        self.input_ids, self.unfinished = self._ahead
        self._ahead = None
        self.position = self.position + 1

    def _with(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids = torch.cat([self.input_ids, tokens[:, None]], dim=-1)
        scores = None if self.scores is None else tuple(self.scores)
        stopped = self.criteria(input_ids, scores)
        if stopped.dtype != torch.bool:  # 0 and 1, which transformers takes too
            stopped = (stopped & 1).bool()
        if stopped.numel() != self.unfinished.numel():
            raise ValueError(
                "generate: stopping_criteria must return one value, or one for each of the "
                f"{len(input_ids)} rows, got shape {list(stopped.shape)} from all of them"
            )
        stopped = stopped.reshape(self.unfinished.shape)  # a single row's may be [1, 1]
        return input_ids, self.unfinished & ~stopped
