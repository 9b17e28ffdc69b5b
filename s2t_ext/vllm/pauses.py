"""Candidates of requests that have ended where their trigger fired, until somebody takes them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

#: How many requests are remembered, the latest ones.
REMEMBERED = 4096


class Pauses:
    """Request -> its candidates, with bounded memory."""

    def __init__(self) -> None:
        self._candidates: OrderedDict[str, list[int]] = OrderedDict()

    def add(self, request_ids: Sequence[str], candidates: torch.Tensor) -> None:
        """Keeps the candidates of requests, int64 [requests, k], likeliest first; -1 is none.

        Asynchronous scheduling runs a request that has ended once more: its first pause counts.
        """
        for request_id, ids in zip(request_ids, candidates.tolist(), strict=True):
            self._candidates.setdefault(request_id, [i for i in ids if i >= 0])
        while len(self._candidates) > REMEMBERED:
            self._candidates.popitem(last=False)

    def take(self, request_id: str) -> list[int] | None:
        """The candidates of a request, which are forgotten; None if it has not paused.

        Args:
            request_id: As the request was added; vLLM appends a suffix to it inside the engine.
        """
        for name in self._candidates:
            if name == request_id or name.startswith(request_id + "-"):
                return self._candidates.pop(name)
        return None
