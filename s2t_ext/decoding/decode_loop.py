"""The decode loop (paper, algorithm 1): logits -> propose -> trigger -> tree step -> score and
select -> commit.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from s2t_ext import ops
from s2t_ext.decoding.choosing.local_selection import LocalSelection
from s2t_ext.decoding.choosing.selection import Choice, NoSelection, Selection, StepState
from s2t_ext.decoding.choosing.teacher_selection import TeacherSelection, TeacherView
from s2t_ext.decoding.last_record import keep_record
from s2t_ext.decoding.options import DecodingOptions
from s2t_ext.decoding.ordinary_token import OrdinaryToken
from s2t_ext.decoding.plan import Plan, make_plan
from s2t_ext.decoding.proposer import Proposed, Proposer
from s2t_ext.decoding.record import DecodingRecord, S2TGenerateOutput, StepEvent
from s2t_ext.decoding.sequences import Sequences
from s2t_ext.decoding.steps.self_test import attach
from s2t_ext.decoding.student import Student
from s2t_ext.hf.adapters import AdapterSwitch, has_adapter
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.generate_internals import BaseStreamer, GenerateCall, experts_for_decoding
from s2t_ext.hf.identity import end_token_ids
from s2t_ext.native.forking import prepare_for_forks
from s2t_ext.ops.reference.philox import PURPOSE_TRIGGER
from s2t_ext.triggers import TriggerInputs

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
    prepare_for_forks()
    plan = make_plan(
        model, input_ids, options, generation_config, logits_processor, model_kwargs, call
    )
    if input_ids.shape[0] == 0:
        return _empty_batch(input_ids, generation_config, streamer)
    record = DecodingRecord(_end_ids=end_token_ids(generation_config))
    head = attach(model).head if plan.trigger.reads_hidden_state else None
    student = Student(model, generation_config, model_kwargs, call, record, head)
    teacher = None
    if plan.teacher is not None:
        teacher = TeacherView(plan.teacher.start(model), record)
    base_proposer = None
    if plan.config.proposer == "base" and has_adapter(model):
        base_proposer = AdapterSwitch(model)
    selection = _selection(model, plan, teacher, record, base_proposer)
    ordinary = OrdinaryToken(logits_processor, generation_config.do_sample, plan.blocked_ids)
    proposer = Proposer(plan, ordinary, generation_config)
    sequences = Sequences(input_ids, stopping_criteria, proposer.scores)
    loop = DecodeLoop(plan, student, sequences, proposer, selection, teacher)
    with nullcontext() if base_proposer is None else base_proposer.off():
        output = loop.run(streamer)
    keep_record(model, record)
    return output


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
    plan: Plan,
    teacher: TeacherView | None,
    record: DecodingRecord,
    base_proposer: AdapterSwitch | None,
) -> Selection:
    """Who chooses, where anybody does."""
    if plan.trigger.can_fire and plan.config.select != "local" and teacher is not None:
        return TeacherSelection(plan.config, teacher)
    if plan.trigger.can_fire and plan.selector is not None:
        return LocalSelection(
            model, plan.selector, plan.config, record, base_proposer, plan.expand_reason
        )
    return NoSelection()


class DecodeLoop:
    """One generation: `run` is the loop, `_step` one token of every row."""

    def __init__(
        self,
        plan: Plan,
        student: Student,
        sequences: Sequences,
        proposer: Proposer,
        selection: Selection,
        teacher: TeacherView | None,
    ) -> None:
        self.plan = plan
        self.student = student
        self.sequences = sequences
        self.proposer = proposer
        self.selection = selection
        self.teacher = teacher
        self.record = student.record

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
                if self.plan.on_step is not None:
                    self.plan.on_step(event)
                if not self.sequences.any_goes_on:
                    break
                if not self.student.has_next_logits:
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
        return self._result(step + 1)

    def _prefill(self) -> None:
        with self.record.phase("prefill"):
            k = self.plan.config.k
            if self.selection.looks_ahead:
                places = k if self.selection.wants_candidate_cache else 1
                self.student.make_room_for_last_token(self.sequences.input_ids, places)
            if self.selection.wants_candidate_cache:
                self.student.use_candidate_cache(k)
            self.student.prefill(self.sequences.input_ids)
            self.selection.prefilled(self.student.context(self.sequences.input_ids))
        self.record.step_mode, self.record.step_reason = self.selection.describe()

    def _step(self, step: int) -> StepEvent:
        """One token of every row, from the student's logits to the sequences."""
        trigger, sequences = self.plan.trigger, self.sequences
        with self.record.phase("propose"):
            proposed = self.proposer.propose(self.student.logits, sequences)
        with self.record.phase("trigger"):
            statistic = trigger.statistic(self._trigger_inputs(proposed), step)
            triggered = trigger.fires(statistic, step) & sequences.unfinished
            chooses = trigger.can_fire and sequences.any_triggered(triggered, proposed.default)
        choice = self._choose(proposed, triggered) if chooses else None
        self.student.advance(None if choice is None else choice.committed)
        candidates = proposed.candidates
        event = StepEvent(
            step=step,
            tokens=proposed.default if choice is None else choice.tokens,
            ordinary=proposed.ordinary,
            triggered=triggered,
            slot=torch.zeros_like(proposed.default) if choice is None else choice.slot,
            statistic=statistic,
            entropy=candidates.support_entropy,
            active=sequences.unfinished,
            candidates=candidates.ids,
            scores=None if choice is None else choice.scores,
            logits=candidates.logits,
            logsumexp=candidates.logsumexp,
            refused=None if choice is None else choice.refused,
        )
        self.record.add(event)
        sequences.append(event.tokens, chosen=choice is not None)
        return event

    def _trigger_inputs(self, proposed: Proposed) -> TriggerInputs:
        plan, student, sequences = self.plan, self.student, self.sequences

        def head_probability() -> torch.Tensor:
            assert plan.selector is not None and student.hidden is not None  # resolve_trigger()
            best = proposed.candidates
            return plan.selector.trigger_probability(
                student.hidden, best.support_entropy, best.logprobs
            )

        def divergence() -> torch.Tensor:
            assert self.teacher is not None  # check_options()
            context = student.context(sequences.input_ids)
            k = plan.config.k
            return self.teacher.evaluate(context, proposed.support, k, sequences.unfinished).kl

        return TriggerInputs(
            logits=proposed.candidates.logits,
            support_entropy=proposed.candidates.support_entropy,
            uniform=lambda: ops.random_uniform(plan.seed, sequences.position, PURPOSE_TRIGGER),
            head_probability=head_probability,
            divergence=divergence,
        )

    def _choose(self, proposed: Proposed, triggered: torch.Tensor) -> Choice:
        plan, sequences = self.plan, self.sequences
        return self.selection.choose(
            StepState(
                proposal=proposed.likely(plan.config.candidate_ratio),
                support=proposed.support,
                default=proposed.default,
                triggered=triggered,
                finished=sequences.padding_rows(),
                pad_id=plan.pad_id,
                seed=plan.seed,
                position=sequences.position,
                context=self.student.context(sequences.input_ids),
            )
        )

    def _result(self, steps: int) -> S2TGenerateOutput | torch.Tensor:
        cache = self.student.final_cache()  # also where the caller goes on with a cache it gave
        if not self.student.generation_config.return_dict_in_generate:
            return self.sequences.input_ids
        scores, logits = self.proposer.scores, self.proposer.raw_logits
        return S2TGenerateOutput(
            sequences=self.sequences.input_ids,
            scores=None if scores is None else tuple(scores),
            logits=None if logits is None else tuple(logits),
            **self.student.outputs.of_steps(steps),
            **{CACHE_ARGUMENT: cache},
            s2t=self.record,
        )
