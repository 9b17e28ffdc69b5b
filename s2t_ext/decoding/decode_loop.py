"""The decode loop, one method per verb: propose, trigger, choose, append (paper, algorithm 1)."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from s2t_ext import ops
from s2t_ext.decoding.local_selection import LocalSelection
from s2t_ext.decoding.options import DecodingOptions, row_seeds
from s2t_ext.decoding.ordinary_token import OrdinaryToken
from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput, StepEvent
from s2t_ext.decoding.requirements import (
    check_choices,
    check_generation,
    check_options,
    check_prompt,
)
from s2t_ext.decoding.selection import Choice, NoSelection, Selection, StepState
from s2t_ext.decoding.sequences import Sequences
from s2t_ext.decoding.steps.self_test import attach
from s2t_ext.decoding.student import Student
from s2t_ext.decoding.teacher_selection import TeacherSelection, TeacherView
from s2t_ext.hf.adapters import AdapterSwitch, has_adapter
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.generate_internals import (
    BaseStreamer,
    GenerateCall,
    check_release,
    experts_for_decoding,
    pad_token_id,
)
from s2t_ext.native.forking import keep_to_one_thread_after_fork
from s2t_ext.ops import ProposedCandidates
from s2t_ext.ops.kernel_dtypes import for_kernels
from s2t_ext.triggers import Trigger, resolve_trigger

logger = logging.getLogger("s2t_ext")


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    options: DecodingOptions,
    call: GenerateCall,
    streamer: BaseStreamer | None = None,
    **model_kwargs: Any,
) -> S2TGenerateOutput | torch.Tensor:
    """What all three ways into `generate` call, with the arguments transformers prepared."""
    check_release()
    keep_to_one_thread_after_fork()
    check_generation(model, generation_config, logits_processor, model_kwargs, call.synced_gpus)
    trigger = resolve_trigger(options.config, options.selector)
    check_options(options.config, trigger, options.selector, options.teacher)
    if trigger.can_fire:
        check_choices(model, options.config, generation_config, model_kwargs)
    if input_ids.shape[0] == 0:
        return _empty_batch(input_ids, generation_config, streamer)
    check_prompt(input_ids, model_kwargs)
    if options.selector is not None:
        options.selector.check_fits(model)
        options = replace(options, selector=options.selector.on(input_ids.device))
    record = DecodingRecord()
    head = attach(model).head if trigger.needs_hidden_state else None
    student = Student(model, generation_config, model_kwargs, call, record, head)
    teacher = None
    if options.teacher is not None:
        teacher = TeacherView(options.teacher.start(model), record)
    base_proposer = None
    if options.config.proposer == "base" and has_adapter(model):
        base_proposer = AdapterSwitch(model)
    selection = _selection(model, options, trigger, teacher, record, base_proposer)
    ordinary = OrdinaryToken(logits_processor, generation_config.do_sample)
    loop = DecodeLoop(
        student, input_ids, ordinary, trigger, selection, teacher, stopping_criteria, options
    )
    with nullcontext() if base_proposer is None else base_proposer.off():
        return loop.run(streamer)


def _empty_batch(
    input_ids: torch.Tensor, generation_config: GenerationConfig, streamer: BaseStreamer | None
) -> S2TGenerateOutput | torch.Tensor:
    """No prompts, no continuations; models do not take an empty batch themselves."""
    if streamer is not None:
        streamer.end()
    if not generation_config.return_dict_in_generate:
        return input_ids
    return S2TGenerateOutput(sequences=input_ids, s2t=DecodingRecord())


def _selection(
    model: PreTrainedModel,
    options: DecodingOptions,
    trigger: Trigger,
    teacher: TeacherView | None,
    record: DecodingRecord,
    base_proposer: AdapterSwitch | None,
) -> Selection:
    if not trigger.can_fire:
        return NoSelection()
    if options.config.select == "local":
        assert options.selector is not None  # check_options()
        return LocalSelection(model, options.selector, options, record, base_proposer)
    assert teacher is not None
    return TeacherSelection(options.config, teacher)


class DecodeLoop:
    """State of one generation: `run` is the loop, `_step` one token of every row."""

    def __init__(
        self,
        student: Student,
        input_ids: torch.Tensor,
        ordinary: OrdinaryToken,
        trigger: Trigger,
        selection: Selection,
        teacher: TeacherView | None,
        stopping_criteria: StoppingCriteriaList,
        options: DecodingOptions,
    ) -> None:
        self.student = student
        self.ordinary = ordinary
        self.trigger = trigger
        self.selection = selection
        self.teacher = teacher
        self.options = options
        self.record = student.record
        batch, device = input_ids.shape[0], input_ids.device
        self.seed = row_seeds(options.seed, batch, device)
        config = student.generation_config
        self.pad_id = pad_token_id(config)
        reserved = options.selector.reserved_ids if options.selector is not None else ()
        self.blocked_ids: torch.Tensor | None = None
        if reserved:
            self.blocked_ids = torch.tensor(reserved, dtype=torch.int64, device=device)
        keep = config.return_dict_in_generate
        self.scores: list[torch.Tensor] | None = [] if keep and config.output_scores else None
        self.raw_logits: list[torch.Tensor] | None = [] if keep and config.output_logits else None
        self._has_next_logits = False
        self.sequences = Sequences(input_ids, stopping_criteria, self.scores)

    @torch.no_grad()
    def run(self, streamer: BaseStreamer | None) -> S2TGenerateOutput | torch.Tensor:
        """Generates until every row has finished; returns what `model.generate` would."""
        self._prefill()
        with experts_for_decoding(self.student.model):
            step = 0
            while True:
                event = self._step(step)
                if streamer is not None:
                    streamer.put(event.tokens.cpu())
                if self.options.on_step is not None:
                    self.options.on_step(event)
                if not self.sequences.any_goes_on:
                    break
                if not self._has_next_logits:
                    with self.record.phase("forward"):
                        self.student.forward(self.sequences.input_ids)
                step += 1
        if streamer is not None:
            streamer.end()
        self.record.finish()
        # Said once, at the end: asking earlier would wait for the device.
        rows = self.sequences.without_logits.nonzero().flatten().tolist()
        if rows:
            logger.warning("generate: logits must hold a valid value, got none in rows %s", rows)
        return self._result()

    def _prefill(self) -> None:
        with self.record.phase("prefill"):
            if self.selection.looks_ahead:
                k = self.options.config.k if self.selection.wants_candidate_cache else 1
                self.student.make_room_for_last_token(self.sequences.input_ids, k)
            if self.selection.wants_candidate_cache:
                self.student.use_candidate_cache(self.options.config.k)
            self.student.prefill(self.sequences.input_ids)
            self.selection.prefilled(self.student.context(self.sequences.input_ids))
        self.record.step_mode, self.record.step_reason = self.selection.describe()

    def _step(self, step: int) -> StepEvent:
        """One token of every row, from the student's logits to the sequences."""
        config = self.options.config
        with self.record.phase("propose"):
            processed = self._process(self.student.logits)
            # The divergence trigger compares student and teacher on the whole support.
            width = max(config.k, config.support) if self.trigger.name == "kl" else config.k
            support = ops.propose_candidates(processed, width, config.support, self.blocked_ids)
            proposal = _first(support, config.k)
            ordinary, default = self._ordinary(processed, proposal)
        with self.record.phase("trigger"):
            statistic = self._statistic(support, step)
            triggered = self.trigger.fires(statistic, step) & self.sequences.unfinished
            needs_choice = self.trigger.can_fire and self.sequences.any_triggered(
                triggered, default
            )
        choice: Choice | None = None
        self._has_next_logits = False
        if needs_choice:
            choice = self._choose(processed, support, default, triggered)
        event = StepEvent(
            step=step,
            tokens=default if choice is None else choice.tokens,
            ordinary=ordinary,
            triggered=triggered,
            slot=torch.zeros_like(default) if choice is None else choice.slot,
            statistic=statistic,
            entropy=proposal.support_entropy,
            active=self.sequences.unfinished,
            candidates=proposal.ids,
            scores=None if choice is None else choice.scores,
            logits=proposal.logits,
            logsumexp=proposal.logsumexp,
        )
        self.record.add(event)
        self.sequences.append(event.tokens, chosen=choice is not None)
        return event

    def _process(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits after the processors that shape the proposal; keeps scores and raw logits.

        Without anything to apply or keep, the model's logits go to the kernel as they are: widening
        them to fp32 changes no order and no value.
        """
        untouched = not self.ordinary.processors and not self.ordinary.warpers
        if untouched and self.scores is None and self.raw_logits is None:
            return for_kernels(logits)
        logits = logits.to(copy=True, dtype=torch.float32, device=self.sequences.input_ids.device)
        processed = self.ordinary.process(self.sequences.input_ids, logits)
        if self.raw_logits is not None:
            self.raw_logits.append(logits)
        if self.scores is not None:
            self.scores.append(self.ordinary.scores(self.sequences.input_ids, processed))
        return processed

    def _ordinary(
        self, processed: torch.Tensor, proposal: ProposedCandidates
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(ordinary tokens, the same padded for finished rows and for rows without a valid logit).

        A row whose logits hold nothing valid (all NaN, or all forbidden) stops; the others go on.
        """
        ordinary = self.ordinary.choose(
            processed,
            proposal.ids[:, 0],
            self.sequences.input_ids,
            seed=self.seed,
            position=self.sequences.position,
            blocked_ids=self.blocked_ids,
        )
        invalid = ordinary < 0
        default = ordinary.masked_fill(invalid | self.sequences.padding_rows(), self.pad_id)
        self.sequences.stop_without_logits(invalid)
        return ordinary, default

    def _statistic(self, support: ProposedCandidates, step: int) -> torch.Tensor:
        if self.trigger.name == "kl":
            if step < self.trigger.warmup_steps or not self.trigger.can_fire:
                return torch.zeros_like(support.logsumexp)
            assert self.teacher is not None  # check_options()
            context = self.student.context(self.sequences.input_ids)
            k = self.options.config.k
            return self.teacher.evaluate(context, support, k, self.sequences.unfinished).kl
        return self.trigger.statistic(
            support,
            seed=self.seed,
            position=self.sequences.position,
            hidden=self.student.hidden,
            selector=self.options.selector,
        )

    def _choose(
        self,
        processed: torch.Tensor,
        support: ProposedCandidates,
        default: torch.Tensor,
        triggered: torch.Tensor,
    ) -> Choice:
        config = self.options.config
        state = StepState(
            proposal=_within_ratio(_first(support, config.k), config.candidate_ratio),
            support=support,
            processed=processed,
            default=default,
            triggered=triggered,
            finished=self.sequences.padding_rows(),
            pad_id=self.pad_id,
            seed=self.seed,
            position=self.sequences.position,
            context=self.student.context(self.sequences.input_ids),
        )
        choice = self.selection.choose(state)
        if choice.logits is not None:
            self.student.advance(choice.cache, choice.logits, choice.hidden, choice.undo)
            self._has_next_logits = True
        return choice

    def _result(self) -> S2TGenerateOutput | torch.Tensor:
        cache = self.student.final_cache()  # also where the caller goes on with a cache it gave
        if not self.student.generation_config.return_dict_in_generate:
            return self.sequences.input_ids
        return S2TGenerateOutput(
            sequences=self.sequences.input_ids,
            scores=None if self.scores is None else tuple(self.scores),
            logits=None if self.raw_logits is None else tuple(self.raw_logits),
            **{CACHE_ARGUMENT: cache},
            s2t=self.record,
        )


def _first(support: ProposedCandidates, k: int) -> ProposedCandidates:
    """The k best of what was proposed."""
    if support.ids.shape[1] == k:
        return support
    return support._replace(
        ids=support.ids[:, :k].contiguous(), logits=support.logits[:, :k].contiguous()
    )


def _within_ratio(proposal: ProposedCandidates, ratio: float) -> ProposedCandidates:
    """Drops candidates with p <= ratio * p_max by setting their ids to -1; the favourite stays."""
    if ratio == 0.0:
        return proposal
    keep = proposal.logits > proposal.logits[:, :1] + math.log(ratio)
    return proposal._replace(
        ids=proposal.ids.where(keep, -1), logits=proposal.logits.where(keep, float("-inf"))
    )
