"""Select-to-Think in vLLM's V2 model runner: which rows, at which step, with which blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from s2t_ext.vllm.lookahead import Lookahead, with_more_blocks
from s2t_ext.vllm.options import RequestOptions
from s2t_ext.vllm.selection import Proposal, Row, Selection, leave_only


class RunnerV2(GPUModelRunner):
    """To be put before the class of the runner that vLLM made.

    Attributes:
        s2t: Set by the worker before the cache is made.
        s2t_rows: Candidates per forward pass.
    """

    s2t: Selection
    s2t_rows: int

    def initialize_kv_cache(
        self, kv_cache_config: Any, is_profiling: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        """vLLM's, with scratch blocks."""
        first = kv_cache_config.num_blocks
        extra = 0 if is_profiling else self.s2t_rows * len(kv_cache_config.kv_cache_groups)
        config = with_more_blocks(kv_cache_config, extra)
        super().initialize_kv_cache(config, is_profiling, *args, **kwargs)
        if not is_profiling:
            self.s2t_lookahead = Lookahead(self, first, self.s2t_rows, self.s2t.statistics)
            self.s2t_options: dict[int, RequestOptions] = {}
            self.s2t_batch: Any = None
            self.s2t_states: torch.Tensor | None = None
            self.sampler.logits_processors.append(Decide(self))

    def s2t_admit(self, slot: int, sampling_params: Any) -> bool:
        """Settles the options of the request that enters a slot; False for plain decoding."""
        self.s2t_options.pop(slot, None)
        name = self.req_states.index_to_req_id[slot]
        options = self.s2t.of_request(sampling_params, name)
        if options is not None:
            self.s2t_options[slot] = options
        return options is not None

    def sample(self, hidden_states: torch.Tensor, input_batch: Any, grammar_output: Any) -> Any:
        """vLLM's; keeps what the language-model head read while the sampler runs."""
        self.s2t_batch = input_batch
        self.s2t_states = hidden_states[input_batch.logits_indices]
        try:
            return super().sample(hidden_states, input_batch, grammar_output)
        finally:
            self.s2t_batch = self.s2t_states = None

    def s2t_decide(self, logits: torch.Tensor) -> None:
        """Chooses the tokens of the rows whose trigger fires, in the logits."""
        if self.s2t_states is None:  # a dummy run
            return
        proposals = self.s2t.propose(logits, self._s2t_rows_of_step(), self.s2t_states)
        self.s2t_choose(logits, proposals)

    def s2t_choose(self, logits: torch.Tensor, proposals: Sequence[Proposal]) -> None:
        """Looks ahead now, and leaves the rows only the token that won."""
        if not proposals:
            return
        chosen = self.s2t.look_ahead(self.s2t_lookahead, self.s2t_tables(), proposals)
        for proposal, tokens in zip(proposals, chosen, strict=True):
            leave_only(logits, proposal.rows, tokens)

    def s2t_tables(self) -> list[torch.Tensor]:
        """The block tables of all request slots, one per cache group."""
        return [table.gpu for table in self.block_tables.block_tables]

    def _s2t_rows_of_step(self) -> list[Row]:
        batch, states = self.s2t_batch, self.req_states
        rows = []
        lengths = batch.seq_lens_cpu_upper_bound.tolist()  # exact without speculative decoding
        for i, name in enumerate(batch.req_ids):
            slot = int(batch.idx_mapping_np[i])
            options = self.s2t_options.get(slot)
            if options is None or lengths[i] < states.prefill_len.np[slot]:
                continue  # plain decoding, or a part of the prompt and not its end
            if lengths[i] >= min(states.max_seq_len[slot], self.max_model_len):
                continue  # asynchronous scheduling ran a request that has ended once more
            step = options.first_step + lengths[i] - int(states.prompt_len.np[slot])
            rows.append(Row(i, slot, name, lengths[i], step, options))
        return rows


class Decide(LogitsProcessor):
    """The last logits processor: proposes after penalties and bans, before temperature and
    truncation, and enforces the choices.
    """

    def __init__(self, runner: RunnerV2) -> None:
        self.runner = runner

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Settles the options of the request in slot `req_idx`."""
        return self.runner.s2t_admit(req_idx, sampling_params)

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Called once per step where a request of the batch needs it."""
        self.runner.s2t_decide(logits)
        return logits
