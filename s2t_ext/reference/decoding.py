"""Select-to-Think decoding as the paper writes it: every state recomputed from its whole prefix, no
cache, one row at a time.

This is the specification of `s2t_ext.generate`: slow, short, and what the fast loop must equal
token for token in fp32.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from s2t_ext.hf.adapters import adapter_layers
from s2t_ext.hf.layer_trace import decoder_layer, tracing_layer
from s2t_ext.ops.reference import philox
from s2t_ext.ops.reference.propose_candidates import ProposedCandidates, propose_candidates
from s2t_ext.ops.reference.score_candidates import score_candidates
from s2t_ext.selectors.thresholds import resolve_trigger
from s2t_ext.triggers import TriggerInputs

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, PreTrainedModel

    from s2t_ext.config import S2TConfig
    from s2t_ext.selectors.selector import Selector


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    config: S2TConfig,
    selector: Selector | None = None,
    max_new_tokens: int,
    eos_token_ids: Sequence[int] = (),
    pad_token_id: int = 0,
    logits_processor: LogitsProcessorList | None = None,
    seed: int = 0,
) -> Tensor:
    """Greedy decoding with S2T-LOCAL choices, recomputing prefix + candidate for every candidate.

    Args:
        model: A causal language model; with an adapter and `proposer="base"` the adapter is off
            while proposing.
        input_ids: int64 [batch, length], left-padded.
        attention_mask: [batch, length], 1 for real tokens.
        config: Options; `select` must be "local" and `score_temperature` 0.
        selector: Needed unless `trigger="never"`.
        max_new_tokens: As in `generate`.
        eos_token_ids: As in `generate`.
        pad_token_id: As in `generate`.
        logits_processor: As in `generate`.
        seed: Row b draws its random triggers with seed + b.

    Returns:
        int64 [batch, length + new]; finished rows are filled with `pad_token_id`.
    """
    rows = []
    for b, row in enumerate(input_ids):
        real = row if attention_mask is None else row[attention_mask[b].bool()]
        rows.append(
            _decode_row(
                model,
                real,
                config,
                selector,
                max_new_tokens,
                eos_token_ids,
                logits_processor,
                seed + b,
            )
        )
    longest = max(len(row) for row in rows)
    new = torch.full((len(rows), longest), pad_token_id, dtype=input_ids.dtype)
    for b, row in enumerate(rows):
        new[b, : len(row)] = torch.tensor(row)
    return torch.cat([input_ids, new.to(input_ids.device)], dim=1)


def _decode_row(
    model: PreTrainedModel,
    prompt: Tensor,
    config: S2TConfig,
    selector: Selector | None,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    logits_processor: LogitsProcessorList | None,
    seed: int,
) -> list[int]:
    trigger = resolve_trigger(config, selector)
    blocked = (
        torch.tensor(selector.reserved_ids)
        if selector is not None and selector.reserved_ids
        else None
    )
    prefix, new = prompt[None], []
    for step in range(max_new_tokens):
        with _adapter(model, on=config.proposer == "adapted"):
            logits, hidden = _last_state(model, prefix)
        if logits_processor is not None:
            logits = logits_processor(prefix, logits)
        proposal = propose_candidates(logits, config.k, config.support, blocked)
        statistic = trigger.statistic(_inputs(proposal, hidden, selector, seed, step), step)
        token = int(proposal.ids[0, 0])
        if bool(trigger.fires(statistic, step)):
            assert selector is not None
            with _adapter(model, on=True):
                likely = _likely(proposal, config.candidate_ratio)
                token = _best_candidate(model, prefix, likely, selector, config.override_margin)
        new.append(token)
        prefix = torch.cat([prefix, torch.tensor([[token]], device=prefix.device)], dim=1)
        if token in eos_token_ids:
            break
    return new


def _inputs(
    proposal: ProposedCandidates, hidden: Tensor, selector: Selector | None, seed: int, step: int
) -> TriggerInputs:
    """What a trigger reads, of one row."""

    def uniform() -> Tensor:
        key = torch.tensor([seed]), torch.tensor([step])
        return philox.uniform24(*key, philox.PURPOSE_TRIGGER).float()

    def head_probability() -> Tensor:
        assert selector is not None  # resolve_trigger() has found its trigger head
        return selector.trigger_probability(hidden, proposal.support_entropy, proposal.logprobs)

    return TriggerInputs(proposal.logits, proposal.support_entropy, uniform, head_probability)


def _likely(proposal: ProposedCandidates, ratio: float) -> ProposedCandidates:
    """The candidates with p > ratio * p_max; -1 in place of the others."""
    if ratio == 0:
        return proposal
    floor = proposal.logits[:, :1] + math.log(ratio)
    return proposal._replace(ids=proposal.ids.where(proposal.logits > floor, -1))


def _best_candidate(
    model: PreTrainedModel,
    prefix: Tensor,
    proposal: ProposedCandidates,
    selector: Selector,
    margin: float,
) -> int:
    """argmax_c score(h(prefix + c)) + prior_weight * log p(c | prefix), if it exceeds the value of
    the first candidate by more than the margin, else the first candidate; ties go to the likelier
    candidate.
    """
    first = best_token = int(proposal.ids[0, 0])
    best_total = first_total = float("-inf")
    for token, logit in zip(proposal.ids[0].tolist(), proposal.logits[0].tolist(), strict=True):
        if token < 0:
            continue
        hidden = _scored_state(
            model,
            torch.cat([prefix, torch.tensor([[token]], device=prefix.device)], dim=1),
            selector.layer,
        )
        total = float(
            score_candidates(
                selector.features(hidden),
                selector.rows,
                selector.bias,
                selector.bin_values,
                selector.bin_temperature,
                selector.logit_scale,
                selector.softcap,
            )
        )
        if selector.prior_weight:
            total += selector.prior_weight * (logit - float(proposal.logsumexp))
        if token == first:
            first_total = total
        if total > best_total:
            best_token, best_total = token, total
    kept = margin > 0 and first_total > float("-inf") and not best_total - first_total > margin
    return first if kept else best_token


def _last_state(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(logits [1, V] fp32, head input [1, D]) at the last token of ids [1, length], from
    scratch.
    """
    seen: dict[str, Tensor] = {}
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(
        lambda module, inputs, output: seen.update(hidden=inputs[0])
    )
    try:
        logits = model(**_arguments(model, ids)).logits
    finally:
        handle.remove()
    return logits[:, -1].float(), seen["hidden"][:, -1]


def _arguments(model: PreTrainedModel, ids: Tensor) -> dict[str, Any]:
    """Positions count from 0, as `generate` says to models that ask; some count otherwise alone."""
    arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = torch.arange(ids.shape[1], device=ids.device)[None]
    return arguments


def _scored_state(model: PreTrainedModel, ids: Tensor, layer: int | None) -> Tensor:
    """What a score head reads at the last token of ids [1, length], [1, D]: the head's input, or
    the output of a decoder layer.
    """
    if layer is None:
        return _last_state(model, ids)[1]
    with tracing_layer(decoder_layer(model, layer)) as trace:
        model(**_arguments(model, ids))
    return trace.hidden[:, -1]


@contextlib.contextmanager
def _adapter(model: PreTrainedModel, on: bool) -> Iterator[None]:
    """The model's PEFT adapter on or off, by PEFT's own means."""
    layers = adapter_layers(model)
    for layer in layers:
        layer.enable_adapters(on)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
