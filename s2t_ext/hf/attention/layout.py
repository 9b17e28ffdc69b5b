"""Who sees whom in one forward of candidates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F

from s2t_ext.hf.attention.ragged_rows import RaggedRows


class AttentionLayout(Protocol):
    """Who sees whom in one forward; also implemented by the packed trajectories of distillation."""

    @property
    def num_queries(self) -> int:
        """Tokens of a row in the forward, those left out of a ragged one included."""
        ...

    @property
    def ragged(self) -> RaggedRows | None:
        """How the forward's queries are laid side by side; None if they come padded."""
        ...

    @property
    def unmasked_candidates(self) -> int:
        """K, if all queries are candidates and each sees the whole prefix and itself; else 0."""
        ...

    def allowed(
        self, keys: int, window: int | None, groups: int, device: torch.device
    ) -> torch.Tensor:
        """Bool [batch or 1, 1, groups * queries, keys]: which keys each (packed) query sees.

        `keys` counts the visible prefix and the queries' own keys; `window` is the sliding window,
        the token itself included, or None.
        """
        ...


@dataclass
class CandidateLayout:
    """Who sees whom in one candidate forward.

    Attributes:
        num_candidates: K; the last K queries.
        num_pending: Queries before the candidates, causal among themselves.
        token_mask: Bool [batch, prefix + pending]: real tokens; None if there is no padding.
        ragged: The rows of a forward that leaves slots out; None for one that does not.
    """

    num_candidates: int
    num_pending: int = 0
    token_mask: torch.Tensor | None = None
    ragged: RaggedRows | None = None
    _masks: dict[tuple[int, int | None, int], torch.Tensor] = field(default_factory=dict)

    @property
    def num_queries(self) -> int:
        """c + K."""
        return self.num_pending + self.num_candidates

    @property
    def unmasked_candidates(self) -> int:
        """See `AttentionLayout`."""
        padded = self.token_mask is not None or self.ragged is not None
        return 0 if padded or self.num_pending else self.num_candidates

    def allowed(
        self, keys: int, window: int | None, groups: int, device: torch.device
    ) -> torch.Tensor:
        """See `AttentionLayout`; built once per step and window."""
        key = (keys, window, groups)
        if key not in self._masks:
            self._masks[key] = self._build(keys, window, groups, device)
        return self._masks[key]

    def _build(
        self, keys: int, window: int | None, groups: int, device: torch.device
    ) -> torch.Tensor:
        pending, candidates = self.num_pending, self.num_candidates
        queries = pending + candidates
        prefix = keys - queries
        # Positions relative to the first visible key; all candidates stand right after the last
        # pending token.
        key_position = torch.arange(keys, device=device).clamp(max=prefix + pending)
        query_position = key_position[prefix:]
        allowed = key_position[None, :] <= query_position[:, None]
        allowed[:, prefix + pending :] = torch.eye(queries, dtype=torch.bool, device=device)[
            :, pending:
        ]
        if window is not None:
            allowed &= key_position[None, :] > query_position[:, None] - window
        allowed = allowed[None, None]
        if self.token_mask is not None:
            real = F.pad(self.token_mask[:, -(prefix + pending) :], (0, candidates), value=True)
            # A padding query would see nothing and yield NaN: it sees itself, and nobody sees it.
            own = torch.zeros(queries, keys, dtype=torch.bool, device=device)
            own[:, prefix:] = torch.eye(queries, dtype=torch.bool, device=device)
            allowed = (allowed & real[:, None, None, :]) | own
        return allowed.repeat(1, 1, groups, 1)
