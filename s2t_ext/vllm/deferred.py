"""Deferred choice: the candidates of one step ride in the forward pass of the next.

With asynchronous scheduling the engine plans step t + 1 before it knows the token of step t. So a
row whose trigger fires may answer nothing at t; at t + 1 its one row becomes k rows, and it answers
two tokens, the winner and the one after it. No forward pass and no engine step is added before the
end of a request.

The engine counts the answered tokens of a request: below its last but one it plans a further step,
after that none. So the last token, too, may wait where the one before it has waited: that winner is
held back, and step t + 1 answers both. The engine then plans one step too many, as it does for any
request whose end it learns a step late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from s2t_ext.vllm.riders import Riders, with_rows, without, without_rows
from s2t_ext.vllm.runner_v2 import RunnerV2
from s2t_ext.vllm.selection import Proposal, Row, join


class DeferredRunner(RunnerV2):
    """A runner for asynchronous scheduling; see the module."""

    execute_model_state: Any

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """vLLM's, with scratch blocks."""
        self.s2t_waiting: dict[str, Proposal] = {}
        self.s2t_impatient: set[int] = set()
        self.s2t_riders: Riders | None = None
        self.s2t_answers: list[tuple[list[int], torch.Tensor]] = []
        self.s2t_unanswered: list[int] = []
        self.s2t_last: list[int] = []
        self.s2t_held: dict[str, torch.Tensor] = {}
        super().initialize_kv_cache(*args, **kwargs)

    def s2t_admit(self, slot: int, sampling_params: Any) -> bool:
        """Settles the options of a request, and whether its choices can wait."""
        processors = self.sampler.logits_processors
        if _needs_every_token(sampling_params) or any(map(_is_foreign, processors)):
            self.s2t_impatient.add(slot)
        else:
            self.s2t_impatient.discard(slot)
        return super().s2t_admit(slot, sampling_params)

    def _remove_request(self, req_id: str) -> bool:
        """vLLM's, for finished and preempted requests: what waited is proposed anew, if ever."""
        undelivered: tuple[dict[str, Any], ...] = (self.s2t_waiting, self.s2t_held)
        for decided in undelivered:
            if decided.pop(req_id, None) is not None:
                self.s2t.statistics.take_back_step(req_id)
        removed: bool = super()._remove_request(req_id)
        return removed

    # Step t: which choices can wait?

    def s2t_choose(self, logits: torch.Tensor, proposals: Sequence[Proposal]) -> None:
        """Lets wait what can, and chooses the rest now."""
        now = []
        for proposal in proposals:
            waits = [self._can_wait(row) for row in proposal.rows]
            for i, row in enumerate(proposal.rows):
                if waits[i]:
                    self.s2t_waiting[row.request_id] = proposal.part([i])
                    self.s2t_unanswered.append(row.index)
            if not all(waits):
                now.append(proposal.part([i for i, can in enumerate(waits) if not can]))
        super().s2t_choose(logits, now)

    def _can_wait(self, row: Row) -> bool:
        """Whether the request runs once more, and its next logits need no earlier token."""
        if row.table in self.s2t_impatient:
            return False
        length, end = row.position + 1, int(self.req_states.max_seq_len[row.table])
        if length < min(end, self.max_model_len):
            return True
        answers = any(row.index in rows for rows, _ in self.s2t_answers)
        if answers and length == end < self.max_model_len:
            self.s2t_last.append(row.index)
            return True
        return False

    # Step t + 1, before the forward pass.

    def gather_batch_req_state(self, scheduler_output: Any, dummy_run: bool) -> Any:
        """vLLM's, with the added rows: vLLM chooses the CUDA graph for them too."""
        state, uniform = super().gather_batch_req_state(scheduler_output, dummy_run)
        self.s2t_riders, self.s2t_answers = None, []
        if state is None:
            return state, uniform
        boarding = [
            ([i], self.s2t_waiting.pop(name))
            for i, name in enumerate(state.req_ids)
            if name in self.s2t_waiting
        ]
        return (self._board(state, boarding) if boarding else state), uniform

    def _board(self, state: Any, boarding: list[tuple[list[int], Proposal]]) -> Any:
        room = min(
            self.max_num_reqs - len(state.req_ids),
            self.max_num_tokens - state.num_tokens,
            self.s2t_rows,
        )
        first = int((state.num_scheduled_tokens == 1).sum())
        parents: list[int] = []
        groups: dict[object, list[tuple[list[int], Proposal]]] = {}
        for rows, proposal in boarding:
            others = proposal.ids.shape[1] - 1
            if len(parents) + others > room:
                self._choose_before_forward(rows, proposal)
                continue
            start = first + len(parents)
            parents += rows * others
            rows.extend(range(start, start + others))
            groups.setdefault(proposal.rows[0].options.config, []).append((rows, proposal))
        if not groups:
            return state
        self.s2t_riders = Riders(
            [join([proposal for _, proposal in group]) for group in groups.values()],
            [[rows for rows, _ in group] for group in groups.values()],
            first,
            parents,
        )
        self.s2t.statistics.rows += len(parents)
        return with_rows(state, self.s2t_riders)

    def _choose_before_forward(self, rows: list[int], proposal: Proposal) -> None:
        """A look-ahead where the batch has no room; the winner is the input of this step."""
        (tokens,) = self.s2t.look_ahead(self.s2t_lookahead, self.s2t_tables(), [proposal])
        self.req_states.last_sampled_tokens[proposal.rows[0].table, 0] = tokens[0]
        self.s2t_answers.append((rows, tokens))

    def prepare_inputs(
        self, scheduler_output: Any, batch_req_state: Any, batch_desc: Any, *args: Any
    ) -> Any:
        """vLLM's, then every row of a rider gets its candidate as input."""
        if self.s2t_riders is not None and batch_desc.num_reqs is not None:
            # Without a graph this is the number of requests, which vLLM took from the scheduler.
            rows = max(batch_desc.num_reqs, len(batch_req_state.req_ids))
            batch_desc = replace(batch_desc, num_reqs=rows)
        batch = super().prepare_inputs(scheduler_output, batch_req_state, batch_desc, *args)
        if self.s2t_riders is not None:
            for proposal, rows in zip(self.s2t_riders.proposals, self.s2t_riders.rows, strict=True):
                at = torch.tensor(rows, device=self.device)
                batch.input_ids[at] = proposal.ids.clamp_min(0).int()
        return batch

    def prepare_attn(self, input_batch: Any) -> Any:
        """vLLM's, then the added rows get scratch blocks."""
        tables, slots = super().prepare_attn(input_batch)
        if self.s2t_riders is not None:
            added = self.s2t_riders.added
            for g, table in enumerate(tables):
                slots[g, added] = self.s2t_lookahead.use_scratch(
                    g, table[added], input_batch.positions[added]
                )
        return tables, slots

    # Step t + 1, after the forward pass.

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's, after the winners have taken the rows of their requests."""
        state = self.execute_model_state
        if state is not None and self.s2t_riders is not None:
            self._settle(state.hidden_states, state.input_batch, self.s2t_riders)
            self.execute_model_state = state._replace(
                input_batch=without_rows(state.input_batch, self.s2t_riders),
                hidden_states=without(state.hidden_states, self.s2t_riders.added),
            )
        return super().sample_tokens(grammar_output)

    def _settle(self, states: torch.Tensor, batch: Any, riders: Riders) -> None:
        """Puts the winner's state into the row of its request, and its keys and values into the
        request's last block.
        """
        lookahead = self.s2t_lookahead
        scored = states if self.s2t_layer is None else self.s2t_layer.of(states)
        for proposal, rows in zip(riders.proposals, riders.rows, strict=True):
            at = torch.tensor(rows, device=self.device)
            slots = self.s2t.choose(proposal, scored[at])[:, None]
            own, winner = at[:, 0], at.gather(1, slots)[:, 0]
            states[own] = states[winner]
            for g, table in enumerate(self.block_tables.input_block_tables):
                column = batch.positions[own] // lookahead.block_sizes[g]
                block = table[own].gather(1, column[:, None])[:, 0].long()
                scratch = lookahead.scratch[g][(winner - riders.first).clamp_min(0)]
                lookahead.copy_blocks(g, torch.where(winner == own, block, scratch), block)
            tokens = proposal.ids.gather(1, slots)[:, 0]
            self.s2t_answers.append(([row[0] for row in rows], tokens))

    def sample(self, hidden_states: torch.Tensor, input_batch: Any, grammar_output: Any) -> Any:
        """vLLM's; a row that waits answers nothing more, one that has waited two tokens."""
        self.s2t_unanswered, self.s2t_last = [], []
        output, _, num_rejected = super().sample(hidden_states, input_batch, grammar_output)
        if self.s2t_answers or self.s2t_unanswered:
            own, device = output.sampled_token_ids[:, 0], self.device
            count = output.num_sampled.clone()
            count[torch.tensor(self.s2t_unanswered, dtype=torch.int64, device=device)] = 0
            tokens = torch.stack([own, own], dim=1)
            for rows, winners in self.s2t_answers:
                at = torch.tensor(rows, device=device)
                tokens[at, 0] = winners.to(tokens.dtype)
                count[at] += 1
            self._hold_back(input_batch.req_ids, tokens, count)
            output.sampled_token_ids, output.num_sampled = tokens, count
        return output, output.num_sampled, num_rejected

    def _hold_back(self, names: Sequence[str], tokens: torch.Tensor, count: torch.Tensor) -> None:
        """A winner whose request now waits for its last token is answered with that one."""
        for i, name in enumerate(names):
            held = self.s2t_held.pop(name, None)
            if held is not None:
                tokens[i, 1] = tokens[i, 0]
                tokens[i, 0] = held
        for i in self.s2t_last:
            self.s2t_held[names[i]] = tokens[i, 0].clone()
            count[i] = 0


def _needs_every_token(params: Any) -> bool:
    """Whether a request's next logits, or what it reports, hang on the token that would wait."""
    return bool(
        params.logprobs is not None
        or params.logprob_token_ids
        or params.structured_outputs is not None
        or params.bad_words
        or params.thinking_token_budget is not None
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
    )


def _is_foreign(processor: object) -> bool:
    """Whether a logits processor may look at anything."""
    return not type(processor).__module__.startswith(("vllm.", "s2t_ext."))
