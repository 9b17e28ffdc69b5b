"""Select-to-Think in vLLM's V1 model runner: which rows, at which step, with which blocks."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from s2t_ext.vllm.lookahead import Lookahead, with_more_blocks
from s2t_ext.vllm.selection import Row, Selection, leave_only


class RunnerV1(GPUModelRunner):
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
            self.s2t_states: torch.Tensor | None = None
            kind = type(self.sampler)
            self.sampler.__class__ = type(f"S2T{kind.__name__}", (SamplerV1, kind), {})
            self.sampler.s2t_decide = self.s2t_decide

    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's; keeps what the language-model head read while the sampler runs."""
        state = self.execute_model_state
        self.s2t_states = None if state is None else state.sample_hidden_states
        try:
            return super().sample_tokens(grammar_output)
        finally:
            self.s2t_states = None

    def s2t_decide(self, logits: torch.Tensor) -> None:
        """Chooses the tokens of the rows whose trigger fires, in the logits."""
        if self.s2t_states is None:  # a dummy run
            return
        proposals = self.s2t.propose(logits, self._s2t_rows_of_step(), self.s2t_states)
        if not proposals:
            return
        requests = self.input_batch.num_reqs
        tables = [
            table.get_device_tensor(requests) for table in self.input_batch.block_table.block_tables
        ]
        chosen = self.s2t.look_ahead(self.s2t_lookahead, tables, proposals)
        for proposal, tokens in zip(proposals, chosen, strict=True):
            leave_only(logits, proposal.rows, tokens)

    def _s2t_rows_of_step(self) -> list[Row]:
        rows = []
        for i, name in enumerate(self.input_batch.req_ids):
            if self.discard_request_mask.np[i]:
                continue  # a part of the prompt, not its end
            request = self.requests[name]
            params = request.sampling_params
            options = self.s2t.of_request(params, name)
            if options is None:
                continue
            length = int(self.optimistic_seq_lens_cpu[i])
            step = length - request.num_prompt_tokens
            if step < params.max_tokens and length < self.max_model_len:
                rows.append(Row(i, i, name, length, options.first_step + step, options))
            # else asynchronous scheduling ran a request that has ended once more
        return rows


class SamplerV1(Sampler):
    """To be put before the class of the sampler that vLLM made."""

    s2t_decide: Any

    def apply_logits_processors(self, logits: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """vLLM's, then the choices: candidates are proposed after penalties and bans, and before
        temperature and truncation.
        """
        logits = super().apply_logits_processors(logits, *args, **kwargs)
        self.s2t_decide(logits)
        return logits
