"""Who chooses at a triggered step: the selector, one token ahead through the student."""

from __future__ import annotations

import contextlib

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from s2t_ext import ops
from s2t_ext.config import S2TConfig
from s2t_ext.decoding.choosing.selection import Choice, StepState, check_whole_sequence
from s2t_ext.decoding.record import DecodingRecord
from s2t_ext.decoding.steps.candidate_step import CandidateStep
from s2t_ext.decoding.steps.expand_step import ExpandStep
from s2t_ext.decoding.steps.lagging_scorer import LaggingScorer
from s2t_ext.decoding.steps.self_test import attach, make_step
from s2t_ext.decoding.steps.static_tree_step import MASKED_ATTENTION, StaticTreeStep, is_static
from s2t_ext.hf.adapters import AdapterSwitch
from s2t_ext.hf.attention.candidate_attention import attention_implementation
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.cache_layers import reorders_rows
from s2t_ext.hf.candidate_cache import can_commit, candidate_cache
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.layer_trace import decoder_layer, tracing_layer
from s2t_ext.hf.logits_head import HeadTrace
from s2t_ext.hf.row_adapters import RowAdapters
from s2t_ext.ops.kernel_dtypes import for_kernels
from s2t_ext.selectors.selector import Selector


class LocalSelection:
    """S2T-LOCAL: score(c) of the state after each candidate, from one candidate forward whose
    winner is the next step.

    With a `base_proposer` (`proposer="base"` and an adapter) the adapted model scores from a
    lagging cache and the base model goes on alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        selector: Selector,
        config: S2TConfig,
        record: DecodingRecord,
        base_proposer: AdapterSwitch | None,
        expand_reason: str | None,
    ) -> None:
        self.model = model
        self.selector = selector
        self.config = config
        self.record = record
        attachment = attach(model)
        self._head, self._reason = attachment.head, attachment.reason
        mode = config.step if expand_reason is None else "expand"
        self.step: CandidateStep = make_step(attachment, mode)
        if mode == "expand":
            self._reason = expand_reason or "step='expand' was asked for"
        self._switch = base_proposer
        layer = selector.layer
        self._layer = None if layer is None else decoder_layer(model, layer)

    @property
    def wants_candidate_cache(self) -> bool:
        """Only a step that runs on the student's own cache may want one."""
        return self.looks_ahead and self.step.wants_candidate_cache

    @property
    def looks_ahead(self) -> bool:
        """The base model that generates sees only what has been chosen."""
        return self._switch is None

    def prefilled(self, context: CandidateContext) -> None:
        """Settles the step for the inputs at hand, and makes the scorer's own cache."""
        cached = context.model_kwargs["use_cache"]
        if cached and not isinstance(context.cache, Cache):
            raise ValueError(
                "generate: model must keep its state in a Cache of transformers where choices are "
                f"made, got {type(context.cache).__name__} in {type(self.model).__name__} (set "
                "trigger='never' or use_cache=False)"
            )
        if cached and self.looks_ahead:
            _check_rows(context.cache, type(self.model).__name__)
        if self.step.mode == "tree":
            self._settle_tree(context)
        if self._switch is not None:
            self.step = self._scorer(self._switch, context)

    def _settle_tree(self, context: CandidateContext) -> None:
        kind, body = type(context.cache).__name__, self._head.body
        if context.position_ids is None:
            self._expand(
                f"{type(self.model).__name__} is given no position_ids",
                "position_ids must be an argument of the model's forward for step='tree', "
                f"got none in {type(self.model).__name__}",
            )
        elif self._switch is not None or can_commit(context.cache):
            return  # the scorer has a cache of its own
        elif body is not None and self._takes_static_steps(context.cache):
            # A hook on a layer breaks the graph of a compiled forward.
            self.step = StaticTreeStep(self._head, body, compiles=self._layer is None)
        else:
            self._expand(
                f"the given {kind} cannot hold alternatives",
                f"{CACHE_ARGUMENT} must be a cache whose last entries can be replaced for "
                f"step='tree', got {kind}",
            )

    def _takes_static_steps(self, cache: Cache) -> bool:
        return is_static(cache) and attention_implementation(self.model.config) in MASKED_ATTENTION

    def _expand(self, reason: str, refusal: str) -> None:
        if self.config.step == "tree":
            raise ValueError(f"generate: {refusal}")
        self.step, self._reason = ExpandStep(self._head), reason

    def describe(self) -> tuple[str, str]:
        """Tree or expand, and why."""
        return self.step.mode, self._reason

    def choose(self, state: StepState) -> Choice:
        """One candidate forward, one scoring kernel, one commit."""
        ids = state.proposal.ids
        fallback = torch.where(state.triggered, ids[:, 0], state.default)[:, None]
        candidates = torch.where(state.triggered[:, None] & (ids >= 0), ids, fallback)
        step = self.step
        if not step.fits(state.context, self.config.k):
            step = ExpandStep(self._head)
        with self.record.phase("candidate_forward"), self._tracing() as trace:
            forward = step.forward(state.context, candidates, state.triggered)
            self.record.count_forward(forward.tokens, forward.passes)
        with self.record.phase("score_and_select"):
            states = forward.hidden if trace is None else forward.of_candidates(trace.hidden)
            result = self._score(self.selector.features(states), state)
        with self.record.phase("commit"):
            committed = forward.commit(result.slot)
        return Choice(result.token, result.slot, result.scores, committed, result.refused)

    def _tracing(self) -> contextlib.AbstractContextManager[HeadTrace | None]:
        """Of the layer whose states are scored; None where they are what the head reads."""
        if self._layer is None:
            return contextlib.nullcontext()
        return tracing_layer(self._layer, self.model, self.model.base_model)

    def _score(self, features: torch.Tensor, state: StepState) -> ops.ScoredSelection:
        selector = self.selector
        return ops.score_and_select(
            for_kernels(features),
            selector.rows,
            ids=state.proposal.ids,
            candidate_logprobs=state.proposal.logits - state.proposal.logsumexp[:, None],
            triggered=state.triggered,
            default_token=state.default,
            finished=state.finished,
            pad_id=state.pad_id,
            bias=selector.bias,
            bin_values=selector.bin_values,
            bin_temperature=selector.bin_temperature,
            logit_scale=selector.logit_scale,
            softcap=selector.softcap,
            prior_weight=selector.prior_weight,
            score_temperature=self.config.score_temperature,
            seed=state.seed,
            position=state.position,
            override_margin=self.config.override_margin,
        )

    def _scorer(self, switch: AdapterSwitch, context: CandidateContext) -> LaggingScorer:
        if RowAdapters(self.model).per_row:
            raise ValueError(
                "generate: proposer must be 'adapted' where adapters differ from row to row or "
                "from token to token, got 'base'"
            )
        check_whole_sequence(
            context, "proposer='base' (the adapted model scores from its own cache)"
        )
        config = self.model.config.get_text_config(decoder=True)
        is_tree, cached = self.step.wants_candidate_cache, context.model_kwargs["use_cache"]

        def new_cache() -> Cache | None:
            if not cached:
                return None
            return candidate_cache(config) if is_tree else DynamicCache(config=config)

        return LaggingScorer(self.model, self.step, switch, new_cache)


def _check_rows(cache: Cache, model: str) -> None:
    """Raises ValueError for a cache that cannot give each candidate a row."""
    kind = type(cache)
    selects_more = kind.batch_select_indices is not Cache.batch_select_indices
    if selects_more and kind.reorder_cache is Cache.reorder_cache:  # MiniMax's linear attention
        raise ValueError(
            "generate: model must keep its whole state in the layers of its cache where choices "
            f"are made, got {kind.__name__} in {model} (set trigger='never' or use_cache=False)"
        )
    if not all(reorders_rows(layer) for layer in getattr(cache, "layers", ())):
        raise ValueError(
            "generate: cache_implementation must not be 'quantized' where choices are made before "
            "transformers 5.19, whose quantized layers cannot follow the candidates (set "
            f"trigger='never'), got {type(cache).__name__}"
        )
