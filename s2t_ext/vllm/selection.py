"""One step of the rows that decode by Select-to-Think: propose, trigger, choose.

The same for both model runners. A choice is made before vLLM samples, and enforced by leaving the
row a single token; vLLM's sampler then does all bookkeeping, log-probabilities included.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from s2t_ext import ops
from s2t_ext.ops import ProposedCandidates
from s2t_ext.ops.reference.philox import PURPOSE_TRIGGER
from s2t_ext.triggers import TriggerInputs
from s2t_ext.vllm.lookahead import Lookahead
from s2t_ext.vllm.options import RequestOptions, ServerOptions
from s2t_ext.vllm.pauses import Pauses
from s2t_ext.vllm.statistics import Statistics

logger = logging.getLogger("s2t_ext")


@dataclass(frozen=True)
class Row:
    """A row of logits that decodes by Select-to-Think.

    Attributes:
        index: Its row in the logits.
        table: Its row in the block tables.
        request_id: vLLM's name of the request.
        position: Where the token to choose will stand, that is the tokens before it.
        step: How many tokens of the response there are already.
        options: How the request decodes.
    """

    index: int
    table: int
    request_id: str
    position: int
    step: int
    options: RequestOptions


@dataclass(frozen=True)
class Proposal:
    """Candidates of rows with the same options whose trigger fired.

    Attributes:
        rows: The rows.
        ids: Candidates, int64 [rows, k]; -1 where there are fewer.
        logprobs: Their log-probabilities, float32 [rows, k].
    """

    rows: Sequence[Row]
    ids: torch.Tensor
    logprobs: torch.Tensor

    def part(self, indices: Sequence[int]) -> Proposal:
        """The proposal of some of its rows."""
        at = torch.tensor(indices, device=self.ids.device)
        return Proposal([self.rows[i] for i in indices], self.ids[at], self.logprobs[at])


class Selection:
    """Chooses among candidates by the server's selector.

    Args:
        server: The server's options.
        device: Where logits and states are.
    """

    def __init__(self, server: ServerOptions, device: torch.device) -> None:
        self.server = server
        self.selector = server.selector.to(device)
        self.statistics = Statistics()
        self.pauses = Pauses()
        reserved = self.selector.reserved_ids
        self._blocked = torch.tensor(reserved, device=device) if reserved else None

    def of_request(self, sampling_params: Any, request_id: str) -> RequestOptions | None:
        """How a request decodes; None is plain decoding.

        `RequestCheck` refuses wrong options where requests are admitted. What only the selector
        can tell (it has no trigger head) ends in plain decoding and a warning, since a worker
        cannot refuse a request.
        """
        seed = sampling_params.seed
        try:
            return self.server.of_request(sampling_params.extra_args, request_id, seed)
        except ValueError as error:
            logger.warning("request %s is decoded without Select-to-Think: %s", request_id, error)
            return None

    def propose(
        self, logits: torch.Tensor, rows: Sequence[Row], states: torch.Tensor
    ) -> list[Proposal]:
        """Candidates of the rows whose trigger fires.

        A row that pauses there is left token 0, which its request names as a stop token.

        Args:
            logits: float32 [batch, vocabulary] after all that shapes them but sampling; reserved
                ids are banned from `rows`, in place.
            rows: The rows that decode by Select-to-Think.
            states: What the language-model head read, [batch, hidden size].
        """
        groups: dict[object, list[Row]] = {}
        for row in rows:
            groups.setdefault((row.options.config, row.options.pauses), []).append(row)
        proposals = []
        for group in groups.values():
            proposal = self._propose(logits, group, states)
            if proposal is not None and group[0].options.pauses:
                self.pauses.add([row.request_id for row in proposal.rows], proposal.ids)
                leave_only(logits, proposal.rows, torch.zeros_like(proposal.ids[:, 0]))
            elif proposal is not None:
                proposals.append(proposal)
        return proposals

    def _propose(
        self, logits: torch.Tensor, rows: Sequence[Row], states: torch.Tensor
    ) -> Proposal | None:
        """`propose` for rows with the same options; waits for the device once if one can fire."""
        config, trigger = rows[0].options.config, rows[0].options.trigger
        at = torch.tensor([row.index for row in rows], device=logits.device)
        if self._blocked is not None:
            logits[at[:, None], self._blocked] = float("-inf")
        fired: list[int] = []
        proposed: ProposedCandidates | None = None
        if trigger.can_fire and any(row.step >= trigger.warmup_steps for row in rows):
            proposed = ops.propose_candidates(logits[at], config.k, config.support)
            entropy, logprobs = proposed.support_entropy, proposed.logprobs
            inputs = TriggerInputs(
                proposed.logits,
                entropy,
                uniform=lambda: ops.random_uniform(
                    self._seeds(rows), self._steps(rows), PURPOSE_TRIGGER
                ),
                head_probability=lambda: self.selector.trigger_probability(
                    states[at], entropy, logprobs
                ),
            )
            statistic = trigger.statistic(inputs, trigger.warmup_steps)
            fires = trigger.fires(statistic, trigger.warmup_steps) & (proposed.ids[:, 0] >= 0)
            fired = [
                i for i in fires.nonzero()[:, 0].tolist() if rows[i].step >= trigger.warmup_steps
            ]
        for i, row in enumerate(rows):
            self.statistics.add_step(row.request_id, i in fired)
        if proposed is None or not fired:
            return None
        ids = proposed.ids
        if config.candidate_ratio > 0:
            floor = proposed.logits[:, :1] + math.log(config.candidate_ratio)
            ids = ids.where(proposed.logits > floor, -1)
        logprobs = proposed.logits - proposed.logsumexp[:, None]
        return Proposal(rows, ids, logprobs).part(fired)

    def look_ahead(
        self,
        lookahead: Lookahead,
        tables: Sequence[torch.Tensor],
        proposals: Sequence[Proposal],
    ) -> list[torch.Tensor]:
        """The chosen token of every row of every proposal, int64 [rows], from forward passes over
        all their candidates.
        """
        device = proposals[0].ids.device
        rows = [
            row
            for proposal in proposals
            for row in proposal.rows
            for _ in range(proposal.ids.shape[1])
        ]
        states = lookahead.forward(
            tables,
            torch.tensor([row.table for row in rows], device=device),
            torch.tensor([row.position for row in rows], device=device),
            torch.cat([proposal.ids.clamp_min(0).flatten() for proposal in proposals]),
            max(row.position for row in rows),
        )
        tokens, start = [], 0
        for proposal in proposals:
            part = states[start : start + proposal.ids.numel()]
            start += proposal.ids.numel()
            slots = self.choose(proposal, part.unflatten(0, proposal.ids.shape))
            tokens.append(proposal.ids.gather(1, slots[:, None])[:, 0])
        return tokens

    def choose(self, proposal: Proposal, states: torch.Tensor) -> torch.Tensor:
        """Which candidate of every row is chosen, int64 [rows].

        Args:
            proposal: The candidates.
            states: What the selector scores after each, [rows, k, hidden size].
        """
        selector, rows = self.selector, proposal.rows
        never = torch.zeros(len(rows), dtype=torch.bool, device=states.device)
        result = ops.score_and_select(
            selector.features(states),
            selector.rows,
            ids=proposal.ids,
            candidate_logprobs=proposal.logprobs,
            triggered=~never,
            default_token=proposal.ids[:, 0],
            finished=never,
            pad_id=0,
            bias=selector.bias,
            bin_values=selector.bin_values,
            bin_temperature=selector.bin_temperature,
            logit_scale=selector.logit_scale,
            softcap=selector.softcap,
            prior_weight=selector.prior_weight,
            score_temperature=rows[0].options.config.score_temperature,
            override_margin=rows[0].options.config.override_margin,
            seed=self._seeds(rows),
            position=self._steps(rows),
        )
        self.statistics.add_choices([row.request_id for row in rows], result.slot)
        return result.slot

    def _seeds(self, rows: Sequence[Row]) -> torch.Tensor:
        return torch.tensor([row.options.seed for row in rows], device=self.selector.rows.device)

    def _steps(self, rows: Sequence[Row]) -> torch.Tensor:
        return torch.tensor([row.step for row in rows], device=self.selector.rows.device)


def leave_only(logits: torch.Tensor, rows: Sequence[Row], tokens: torch.Tensor) -> None:
    """Leaves each of the rows a single possible token, in place.

    Args:
        logits: float32 [batch, vocabulary].
        rows: The rows to decide.
        tokens: Their tokens, int64 [len(rows)].
    """
    at = torch.tensor([row.index for row in rows], device=logits.device)
    logits[at] = float("-inf")
    logits[at, tokens] = 0.0


def join(proposals: Sequence[Proposal]) -> Proposal:
    """Proposals with the same options as one."""
    return Proposal(
        [row for proposal in proposals for row in proposal.rows],
        torch.cat([proposal.ids for proposal in proposals]),
        torch.cat([proposal.logprobs for proposal in proposals]),
    )
