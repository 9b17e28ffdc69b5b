"""The decode loop, one method per verb: propose, trigger, choose, commit (design, section 3; paper,
algorithm 1).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation.streamers import BaseStreamer

from .. import ops
from ..config import S2TConfig
from ..ops import ProposedCandidates
from ..selector import Selector
from ..triggers import Trigger, resolve_trigger
from .candidate_cache import can_commit, candidate_cache
from .candidate_step import CandidateContext
from .expand_step import cache_name
from .logits_head import traced_head
from .ordinary_token import OrdinaryToken
from .record import DecodingRecord, S2TGenerateOutput, StepEvent
from .requirements import check_generation, check_options
from .selection import Choice, Selection, StepState, make_selection

logger = logging.getLogger("s2t_ext")


@dataclass
class DecodingOptions:
    """What a caller adds to `generate`'s own arguments.

    Attributes:
        config: The S2TConfig. selector, teacher: As the configuration needs them.
        seed: Key of the random numbers: one integer (row b uses seed + b), one per row, or None
            (drawn from torch's generator).
        on_step: Called with a `StepEvent` after every step.
    """

    config: S2TConfig
    selector: Selector | None = None
    teacher: Any = None
    seed: int | Sequence[int] | None = None
    on_step: Callable[[StepEvent], None] | None = None


class DecodeLoop:
    """State of one generation: `run` is the loop, `_step` one token of every row."""

    def __init__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        options: DecodingOptions,
        trigger: Trigger,
        model_kwargs: dict[str, Any],
    ) -> None:
        self.model = model
        self.input_ids = input_ids
        self.stopping_criteria = stopping_criteria
        self.generation_config = generation_config
        self.options = options
        self.model_kwargs = model_kwargs
        self.record = DecodingRecord()
        self.trigger = trigger
        self.ordinary = OrdinaryToken(logits_processor, generation_config.do_sample)
        self.selection: Selection = make_selection(model, options, trigger, self.record)
        self.has_eos = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        batch, device = input_ids.shape[0], input_ids.device
        self.seed = _row_seeds(options.seed, batch, device)
        self.position = torch.zeros(batch, dtype=torch.int64, device=device)
        self.unfinished = torch.ones(batch, dtype=torch.bool, device=device)
        pad = generation_config._pad_token_tensor
        self.pad_id = 0 if pad is None else int(pad)
        blocked = options.selector.reserved_ids if options.selector is not None else ()
        self.blocked_ids = (
            torch.tensor(blocked, dtype=torch.int64, device=device) if blocked else None
        )
        keep = generation_config.return_dict_in_generate
        self.scores: list[torch.Tensor] | None = (
            [] if keep and generation_config.output_scores else None
        )
        self.raw_logits: list[torch.Tensor] | None = (
            [] if keep and generation_config.output_logits else None
        )
        self.logits: torch.Tensor | None = None
        self.hidden: torch.Tensor | None = None

    @torch.no_grad()
    def run(self, streamer: BaseStreamer | None) -> S2TGenerateOutput | torch.Tensor:
        """Generates until every row has finished; returns what `model.generate` would."""
        with ExitStack() as stack:
            stack.enter_context(self.selection.generating())
            with self.record.phase("prefill"):
                self._prefill()
            stack.enter_context(self.model._optimize_model_for_decode())
            step = 0
            choice: Choice | None = None
            while True:
                event, choice = self._step(step)
                if streamer is not None:
                    streamer.put(event.tokens.cpu())
                if self.options.on_step is not None:
                    self.options.on_step(event)
                if not bool(self.unfinished.any()):
                    break
                if choice is None or choice.logits is None:
                    with self.record.phase("forward"):
                        self._forward()
                step += 1
        if streamer is not None:
            streamer.end()
        self.record.finish()
        return self._result(last_token_cached=choice is not None and choice.logits is not None)

    def _step(self, step: int) -> tuple[StepEvent, Choice | None]:
        """One token of every row, from `self.logits` to `self.input_ids`."""
        config = self.options.config
        with self.record.phase("propose"):
            processed = self._process()
            proposal = ops.propose_candidates(processed, config.k, config.support, self.blocked_ids)
            ordinary, default = self._ordinary(processed, proposal)
        with self.record.phase("trigger"):
            statistic = self._statistic(proposal)
            triggered = self.trigger.fires(statistic, step) & self.unfinished
            needs_choice = self.trigger.can_fire and bool(triggered.any())
        choice = None
        tokens, slot = default, torch.zeros_like(default)
        if needs_choice:
            state = StepState(
                proposal=_within_ratio(proposal, config.candidate_ratio),
                processed=processed,
                default=default,
                triggered=triggered,
                finished=self._padding_rows(),
                pad_id=self.pad_id,
                seed=self.seed,
                position=self.position,
                context=self._context(),
            )
            choice = self.selection.choose(state)
            tokens, slot = choice.tokens, choice.slot
            if choice.logits is not None:
                self._advance(choice.cache)
                self.logits, self.hidden = choice.logits, choice.hidden
        event = StepEvent(
            step=step,
            tokens=tokens,
            ordinary=ordinary,
            triggered=triggered,
            slot=slot,
            statistic=statistic,
            entropy=proposal.support_entropy,
            active=self.unfinished.clone(),
            candidates=proposal.ids,
            scores=None if choice is None else choice.scores,
        )
        self.record.add(event)
        self._append(tokens)
        return event, choice

    def _process(self) -> torch.Tensor:
        """Logits after the processors that shape the proposal; records scores and raw logits as
        transformers does.
        """
        logits = self.logits
        assert logits is not None
        if (
            self.ordinary.processors
            or self.ordinary.warpers
            or self.scores is not None
            or self.raw_logits is not None
        ):
            logits = logits.to(copy=True, dtype=torch.float32, device=self.input_ids.device)
        processed = (
            self.ordinary.processors(self.input_ids, logits) if self.ordinary.processors else logits
        )
        if self.raw_logits is not None:
            self.raw_logits.append(logits)
        if self.scores is not None:
            self.scores.append(self.ordinary.scores(self.input_ids, processed))
        return processed

    def _ordinary(
        self, processed: torch.Tensor, proposal: ProposedCandidates
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the ordinary tokens, the same with padding for finished rows and for rows without a
        valid logit).
        """
        ordinary = self.ordinary.choose(
            processed,
            proposal.ids[:, 0],
            self.input_ids,
            seed=self.seed,
            position=self.position,
            blocked_ids=self.blocked_ids,
        )
        invalid = ordinary < 0
        default = ordinary.masked_fill(invalid | self._padding_rows(), self.pad_id)
        if bool((invalid & self.unfinished).any()):
            rows = (invalid & self.unfinished).nonzero().flatten().tolist()
            logger.warning(
                "generate: logits must hold a valid value, got none in rows %s; these rows "
                "stop here",
                rows,
            )
            self.unfinished &= ~invalid
        return ordinary, default

    def _statistic(self, proposal: ProposedCandidates) -> torch.Tensor:
        return self.trigger.statistic(
            proposal,
            seed=self.seed,
            position=self.position,
            hidden=self.hidden,
            selector=self.options.selector,
        )

    def _padding_rows(self) -> torch.Tensor:
        """Rows that emit the pad token: finished ones, if there is an end-of-sequence token (as in
        transformers).
        """
        return ~self.unfinished if self.has_eos else torch.zeros_like(self.unfinished)

    def _context(self) -> CandidateContext:
        return CandidateContext(
            cache=self.model_kwargs[cache_name(self.model_kwargs)],
            input_ids=self.input_ids,
            num_pending=0,
            attention_mask=self.model_kwargs.get("attention_mask"),
            position_ids=self.model_kwargs.get("position_ids"),
            model_kwargs=self.model_kwargs,
        )

    def _append(self, tokens: torch.Tensor) -> None:
        self.input_ids = torch.cat([self.input_ids, tokens[:, None]], dim=-1)
        scores = None if self.scores is None else tuple(self.scores)
        self.unfinished &= ~self.stopping_criteria(self.input_ids, scores)
        self.position += 1

    def _prefill(self) -> None:
        """The prompt through the model; swaps the default cache for one that can hold candidates,
        where that is used.
        """
        name = cache_name(self.model_kwargs)
        cache = self.model_kwargs.get(name)
        if self.selection.wants_candidate_cache and _is_default_cache(cache):
            length = self.generation_config.max_length
            text_config = self.model.config.get_text_config(decoder=True)
            self.model_kwargs[name] = candidate_cache(
                text_config, length and length + self.options.config.k
            )
        with traced_head(self.model) as trace:
            outputs = self.model._prefill(self.input_ids, self.generation_config, self.model_kwargs)
        prompt = self.model_kwargs.get("inputs_embeds")
        self.record.count_forward(
            self.input_ids.numel() if prompt is None else prompt.shape[0] * prompt.shape[1]
        )
        self._take(outputs, trace.hidden)
        self.selection.prefilled(self._context())
        self.record.step_mode, self.record.step_reason = self.selection.describe()
        self._forward_call = self.model.__call__
        if self.model._valid_auto_compile_criteria(self.model_kwargs, self.generation_config):
            self._forward_call = self.model.get_compiled_call(self.generation_config.compile_config)

    def _forward(self) -> None:
        """The ordinary one-token forward, exactly as transformers runs it."""
        inputs = self.model.prepare_inputs_for_generation(
            self.input_ids, next_sequence_length=1, **self.model_kwargs
        )
        if self.trigger.needs_hidden_state:
            with traced_head(self.model) as trace:
                outputs = self._forward_call(**inputs, return_dict=True)
            self._take(outputs, trace.hidden)
        else:
            self._take(self._forward_call(**inputs, return_dict=True), None)
        self.record.count_forward(self.input_ids.shape[0])

    def _take(self, outputs: Any, hidden: torch.Tensor | None) -> None:
        self.model_kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.model_kwargs
        )
        self.logits = outputs.logits[:, -1]
        self.hidden = None if hidden is None else hidden[:, -1]

    def _advance(self, cache: Cache) -> None:
        """Mask, positions and cache after a candidate forward, as after any forward."""
        outputs = _CacheOnly({cache_name(self.model_kwargs): cache})
        self.model_kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.model_kwargs
        )

    def _result(self, last_token_cached: bool) -> S2TGenerateOutput | torch.Tensor:
        if not self.generation_config.return_dict_in_generate:
            return self.input_ids
        cache = self.model_kwargs.get(cache_name(self.model_kwargs))
        if last_token_cached and cache is not None and can_commit(cache):
            cache.crop(
                -1
                # transformers returns a cache without the last token; a candidate step has already
                # added it
            )
        return S2TGenerateOutput(
            sequences=self.input_ids,
            scores=None if self.scores is None else tuple(self.scores),
            logits=None if self.raw_logits is None else tuple(self.raw_logits),
            past_key_values=cache,
            s2t=self.record,
        )


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    options: DecodingOptions,
    streamer: BaseStreamer | None = None,
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> S2TGenerateOutput | torch.Tensor:
    """What all three ways into `generate` call, with the arguments transformers prepared."""
    check_generation(model, generation_config, logits_processor, model_kwargs, synced_gpus)
    trigger = resolve_trigger(options.config, options.selector)
    check_options(options.config, trigger, options.selector, options.teacher)
    if options.selector is not None:
        options.selector.check_fits(model)
        options.selector.to(input_ids.device)
    loop = DecodeLoop(
        model,
        input_ids,
        logits_processor,
        stopping_criteria,
        generation_config,
        options,
        trigger,
        model_kwargs,
    )
    return loop.run(streamer)


class _CacheOnly(
    dict[str, Any]
):  # what `_update_model_kwargs_for_generation` reads of a model's outputs
    __getattr__ = dict.__getitem__


def _is_default_cache(cache: Any) -> bool:
    """Whether `cache` is the empty one `generate` made because the user asked for nothing in
    particular.
    """
    return (
        type(cache) is DynamicCache
        and not getattr(cache, "_is_user_defined", False)
        and not cache.offloading
        and cache.get_seq_length() == 0
    )


def _row_seeds(seed: int | Sequence[int] | None, batch: int, device: torch.device) -> torch.Tensor:
    if seed is None:
        return torch.randint(2**62, (batch,), dtype=torch.int64).to(device)
    if isinstance(seed, int):
        return torch.arange(seed, seed + batch, dtype=torch.int64, device=device)
    if len(seed) != batch:
        raise ValueError(
            f"generate: seed must be an integer or have one entry per row ({batch}), got "
            f"{len(seed)} entries"
        )
    return torch.tensor(list(seed), dtype=torch.int64, device=device)


def _within_ratio(proposal: ProposedCandidates, ratio: float) -> ProposedCandidates:
    """Drops candidates with p <= ratio * p_max by setting their ids to -1; the favourite always
    stays.
    """
    if ratio == 0.0:
        return proposal
    cutoff = proposal.logits[:, :1] + torch.log(torch.tensor(ratio))
    keep = proposal.logits > cutoff
    return proposal._replace(
        ids=proposal.ids.where(keep, -1), logits=proposal.logits.where(keep, float("-inf"))
    )
