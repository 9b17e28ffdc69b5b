"""Rows of candidates added to the batch of vLLM's second model runner, and taken out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from s2t_ext.vllm.selection import Proposal


@dataclass(frozen=True)
class Riders:
    """Candidates in the forward pass of this step.

    The first candidate takes the row of its request, the others are added as rows of one token
    after all such rows. Up to there the number of a row is also that of its token.

    Attributes:
        proposals: What waited, requests with the same options together.
        rows: Per proposal the row of every candidate, [requests][k].
        first: The first of the added rows.
        parents: The request's row of every added row.
    """

    proposals: list[Proposal]
    rows: list[list[list[int]]]
    first: int
    parents: list[int]

    @property
    def added(self) -> slice:
        """The added rows."""
        return slice(self.first, self.first + len(self.parents))


def _with(values: Any, riders: Riders) -> Any:
    """An array over rows, with those of the added rows; their values are their parents'."""
    if values is None:
        return None
    return np.insert(values, riders.first, values[riders.parents])


def without(values: Any, added: slice) -> Any:
    """An array or tensor over rows or tokens, less the added ones."""
    if values is None:
        return None
    parts = [values[: added.start], values[added.stop :]]
    return np.concatenate(parts) if isinstance(values, np.ndarray) else torch.cat(parts)


def with_rows(state: Any, riders: Riders) -> Any:
    """vLLM's BatchReqState with the added rows."""
    names = state.req_ids
    arrays = (
        "num_scheduled_tokens",
        "idx_mapping_np",
        "prefill_len_np",
        "num_computed_prefill_tokens_np",
        "is_prefilling_np",
        "prefill_runs_as_decode_np",
    )
    return state._replace(
        req_ids=[
            *names[: riders.first],
            *(names[i] for i in riders.parents),
            *names[riders.first :],
        ],
        num_tokens=state.num_tokens + len(riders.parents),
        **{name: _with(getattr(state, name), riders) for name in arrays},
    )


def without_rows(batch: Any, riders: Riders) -> Any:
    """vLLM's InputBatch without the added rows, for all that follows the forward pass."""
    added, count = riders.added, len(riders.parents)
    requests = batch.num_reqs - count
    starts = batch.query_start_loc_np.copy()
    starts[added.stop :] -= count
    starts = without(starts, added)
    starts_device = torch.from_numpy(starts).to(batch.query_start_loc.device)
    per_row_or_token = (
        "idx_mapping",
        "idx_mapping_np",
        "expanded_idx_mapping",
        "expanded_local_pos",
        "num_scheduled_tokens",
        "seq_lens",
        "seq_lens_cpu_upper_bound",
        "num_computed_tokens_np",
        "prefill_len_np",
        "num_computed_prefill_tokens_np",
        "is_prefilling_np",
        "prefill_runs_as_decode_np",
        "input_ids",
        "positions",
        "is_padding",
        "prompt_lens",
    )
    return replace(
        batch,
        req_ids=batch.req_ids[: added.start] + batch.req_ids[added.stop :],
        num_reqs=requests,
        num_reqs_after_padding=batch.num_reqs_after_padding - count,
        num_tokens=batch.num_tokens - count,
        num_tokens_after_padding=batch.num_tokens_after_padding - count,
        query_start_loc=starts_device,
        query_start_loc_np=starts,
        logits_indices=(starts_device[1 : requests + 1] - 1).to(batch.logits_indices.dtype),
        cu_num_logits=batch.cu_num_logits[: requests + 1],
        cu_num_logits_np=batch.cu_num_logits_np[: requests + 1],
        **{name: without(getattr(batch, name), added) for name in per_row_or_token},
    )
