"""What happened: steps, triggers and changed tokens, per request and in total."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass

import torch

#: How many requests are remembered, the latest ones.
REMEMBERED = 4096


@dataclass
class Counts:
    """Counts of one request, or of all.

    Attributes:
        steps: Tokens decided while Select-to-Think was on.
        triggers: Steps in which the trigger fired.
        changed: Triggered steps in which another candidate than the likeliest was chosen.
    """

    steps: int = 0
    triggers: int = 0
    changed: int = 0


class Statistics:
    """Counts with bounded memory.

    Which candidate was chosen is known on the device first; it is read only when the next step is
    counted, so that counting never makes the host wait.
    """

    def __init__(self) -> None:
        self.total = Counts()
        self.forwards = 0
        self.rows = 0
        self._requests: OrderedDict[str, Counts] = OrderedDict()
        self._unread: list[tuple[list[str], torch.Tensor]] = []

    def add_step(self, request_id: str, fired: bool) -> None:
        """Counts one step of a request."""
        counts = self._requests.setdefault(request_id, Counts())
        self._requests.move_to_end(request_id)
        while len(self._requests) > REMEMBERED:
            self._requests.popitem(last=False)
        for each in (counts, self.total):
            each.steps += 1
            each.triggers += fired

    def take_back_step(self, request_id: str) -> None:
        """A triggered step that will be decided once more (its request lost its cache)."""
        for each in (self._requests.get(request_id), self.total):
            if each is not None:
                each.steps -= 1
                each.triggers -= 1

    def add_choices(self, request_ids: list[str], slots: torch.Tensor) -> None:
        """Counts which candidates were chosen, int64 [len(request_ids)]; 0 is the likeliest."""
        self.read_choices()
        self._unread.append((request_ids, slots))

    def read_choices(self) -> None:
        """Brings the counts up to date."""
        for request_ids, slots in self._unread:
            for request_id, slot in zip(request_ids, slots.tolist(), strict=True):
                for each in (self._requests.get(request_id), self.total):
                    if each is not None:
                        each.changed += slot > 0
        self._unread.clear()

    def report(self, request_id: str | None = None) -> dict[str, object]:
        """Plain values for `collective_rpc`.

        Args:
            request_id: As the server answered it; vLLM appends a suffix to it inside the engine.
                None reports all requests that are remembered.

        Returns:
            total: Counts, with `forwards` and `rows` of the look-ahead passes; requests: id ->
            Counts.
        """
        self.read_choices()
        requests = {
            name: asdict(counts)
            for name, counts in self._requests.items()
            if request_id is None or name == request_id or name.startswith(request_id + "-")
        }
        total = {**asdict(self.total), "forwards": self.forwards, "rows": self.rows}
        return {"total": total, "requests": requests}
