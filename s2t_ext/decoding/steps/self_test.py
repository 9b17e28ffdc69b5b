"""Can this model run K candidates in one tree forward? Decided by trying it, once per state of the
model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from s2t_ext.decoding.steps.candidate_step import CandidateStep
from s2t_ext.decoding.steps.expand_step import ExpandStep
from s2t_ext.decoding.steps.tree_step import TreeStep
from s2t_ext.hf.attention.candidate_attention import unknown_attention
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT
from s2t_ext.hf.candidate_cache import candidate_cache
from s2t_ext.hf.context import CandidateContext
from s2t_ext.hf.hooks import foreign_class
from s2t_ext.hf.logits_head import LogitsHead, find_logits_head, untested_head
from s2t_ext.hf.model_state import find_once, findings, input_device, interference

#: Largest |tree - expand| allowed, relative to the largest hidden or logit value. Leaks between
#: candidates measure 1e-1 and more.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_LOW_PRECISION_TOLERANCE = 5e-2

#: Where tree steps leave out the slots that do not matter: to know how many tokens are left, a GPU
#: would have to be waited for. Whether that would pay there has not been measured.
RAGGED_DEVICES = ("cpu",)


@dataclass(frozen=True)
class Attachment:
    """What was found out about a model.

    Attributes:
        head: How to get logits from hidden states.
        tree: Whether the tree forward is exact for it.
        reason: Why, in words for the user.
        ragged: Whether it also is with the slots left out that do not matter; False outside
            `RAGGED_DEVICES`.
    """

    head: LogitsHead
    tree: bool
    reason: str
    ragged: bool = False


def attach(model: PreTrainedModel) -> Attachment:
    """What is known about `model` in its present state; found out by forwards of its own once per
    state, unless something of the caller's own would take part in them (`interference`).
    """
    foreign = interference(model)
    if foreign is not None:
        return Attachment(untested_head(model), False, foreign)
    known = findings(model)
    head = find_logits_head(model, known)
    attachment = find_once(
        model,
        known,
        "the tree forward",
        lambda: _test(model, head),
        lambda words: Attachment(head, False, f"the tree forward raised {words}"),
    )
    if not attachment.tree or input_device(model).type not in RAGGED_DEVICES:
        return attachment
    return find_once(
        model,
        known,
        "the ragged tree forward",
        lambda: replace(attachment, ragged=_why_not(model, head, ragged=True) is None),
        lambda _: attachment,
    )


def _test(model: PreTrainedModel, head: LogitsHead) -> Attachment:
    reason = _why_not(model, head, ragged=False)
    return Attachment(head, reason is None, reason or "tree and expanded forwards agree")


def make_step(attachment: Attachment, mode: str) -> CandidateStep:
    """The candidate step for a configuration's `step` option ("auto", "tree" or "expand").

    Raises:
        ValueError: if "tree" was asked for and the model cannot.
    """
    if mode == "tree" and not attachment.tree:
        raise ValueError(
            "generate: step must be 'auto' or 'expand' for this model, got 'tree' "
            f"({attachment.reason})"
        )
    if mode == "expand" or not attachment.tree:
        return ExpandStep(attachment.head)
    return TreeStep(attachment.head, ragged=attachment.ragged)


def _why_not(model: PreTrainedModel, head: LogitsHead, *, ragged: bool) -> str | None:
    """Why the tree forward cannot be used for it; None if it can."""
    name = type(model).__name__
    if not type(model).is_backend_compatible():
        return f"{name} does not take registered attention implementations"
    # A forward of five tokens does not show what an unknown attention does with five hundred.
    attention = unknown_attention(model.config)
    if attention is not None:
        return f"the attention implementation {attention!r} is not one of transformers' own"
    if model.is_remote_code():
        return f"{name} is remote code, whose attention may depend on the length"
    own = foreign_class(model)
    if own is not None:
        return own
    config = model.config.get_text_config(decoder=True)
    try:
        cache = candidate_cache(config)
    except NotImplementedError as error:
        return str(error)
    needed = [True, not ragged]  # where all rows need their slots, none is left out
    tree = _probe(model, TreeStep(head, ragged=ragged), cache, needed)
    expand = _probe(model, ExpandStep(head), DynamicCache(config=config), needed)
    tolerance = _TOLERANCE.get(model.dtype, _LOW_PRECISION_TOLERANCE)
    for what, a, b in zip(("hidden states", "logits"), tree, expand, strict=True):
        difference = float(
            (a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-6)
        )
        if not difference <= tolerance:
            return (
                f"tree and expanded forwards differ by {difference:.1e} in {what} (allowed "
                f"{tolerance:.0e})"
            )
    return None


def _sample_prompt(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two rows of five tokens, the second left-padded by two."""
    vocab = model.config.get_text_config(decoder=True).vocab_size
    device = input_device(model)
    tokens = torch.tensor([[11, 3, 7, 29, 5], [1, 1, 13, 4, 17]], device=device) % vocab
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], device=device)
    return tokens, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def _probe(
    model: PreTrainedModel, step: CandidateStep, cache: Cache, needed: list[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prefill, three candidates, commit slots (2, 1), or 0 where no choice is needed, one more
    token: hidden states of the slots that matter, and final logits.
    """
    tokens, mask, positions = _sample_prompt(model)
    prefix = slice(0, 4)
    model(
        input_ids=tokens[:, prefix],
        attention_mask=mask[:, prefix],
        position_ids=positions[:, prefix],
        **{CACHE_ARGUMENT: cache},
    )
    candidates = torch.stack([tokens[:, 4], tokens[:, 0], tokens[:, 3]], dim=1)
    context = CandidateContext(
        cache, tokens[:, prefix], 0, mask, positions, {"use_cache": True, CACHE_ARGUMENT: cache}
    )
    chooses = torch.tensor(needed, device=tokens.device)
    forward = step.forward(context, candidates, chooses)
    slot = torch.tensor([2, 1], device=tokens.device) * chooses
    cache = forward.commit(slot).cache
    grown = torch.cat([mask, mask[:, -1:]], dim=1)
    logits = model(
        input_ids=tokens[:, 4:],
        attention_mask=grown,
        position_ids=positions[:, -1:] + 1,
        **{CACHE_ARGUMENT: cache},
    ).logits[:, -1]
    matters = chooses[:, None] | (torch.arange(3, device=tokens.device) == 0)
    return forward.hidden[matters], logits
