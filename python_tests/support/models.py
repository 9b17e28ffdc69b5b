"""Tiny random models of all `architectures`, prompts and selectors for them, and the reference's
verdict on a generation: what the tests of whole generations share.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf
from architectures import ARCHITECTURES, EOS, PAD, PROMPT, VOCAB

import s2t_ext
from s2t_ext.reference import decoding as reference_decoding
from s2t_ext.selectors.thresholds import resolve_trigger

# Two paths whose choices the reference itself puts this close may part: that is rounding.
TIE = 2e-5

logging.getLogger("transformers").setLevel(logging.ERROR)  # advice about the tiny configurations


def build_model(config: str | hf.PretrainedConfig, seed: int = 0) -> hf.PreTrainedModel:
    """A model of its own, for tests that change it; otherwise see `tiny_model`.

    Matrices are enlarged so that logits differ by far more than rounding.
    """
    if isinstance(config, str):
        config = ARCHITECTURES[config].build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    return model


@functools.cache
def tiny_model(name: str) -> hf.PreTrainedModel:
    """The shared model of an architecture; a test must leave it as it found it."""
    return build_model(name)


@dataclass(frozen=True)
class Prompts:
    """input_ids and attention_mask, int64 [batch, PROMPT]."""

    ids: torch.Tensor
    mask: torch.Tensor

    def __iter__(self):
        return iter((self.ids, self.mask))


def prompts(padded: bool, seed: int = 1) -> Prompts:
    """Two full rows, or three left-padded rows of 9, 6 and 2 tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (3, PROMPT), generator=generator)
    mask = torch.ones_like(ids)
    if not padded:
        return Prompts(ids[:2], mask[:2])
    mask[1, :3] = mask[2, :7] = 0
    return Prompts(ids.where(mask.bool(), PAD), mask)


def make_selector(
    model: hf.PreTrainedModel, bins: int = 16, seed: int = 5, **options
) -> s2t_ext.Selector:
    """Random score rows whose logits have deviation 1 on the model's own hidden states: scores of
    different candidates then differ in their second digit, and none is near 0 or 1.
    """
    size = model.config.get_text_config(decoder=True).hidden_size
    vocab = model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        _, hidden = reference_decoding._last_state(model, torch.arange(3, 15)[None] % vocab)
    rows = torch.randn(bins, size, generator=torch.Generator().manual_seed(seed))
    return s2t_ext.Selector(rows / float(hidden.norm()), **options)


def assert_equals_reference(
    sequences: torch.Tensor,
    model: hf.PreTrainedModel,
    inputs: Prompts,
    *,
    config: s2t_ext.S2TConfig,
    selector: s2t_ext.Selector | None,
    new_tokens: int,
    seed: int = 0,
    eos: tuple[int, ...] = (EOS,),
    processors: hf.LogitsProcessorList | None = None,
) -> None:
    """The tokens of `s2t_ext.reference.decode`, row by row, except after a tie of the reference."""
    expected = s2t_ext.reference.decode(
        model,
        inputs.ids,
        inputs.mask,
        config=config,
        selector=selector,
        max_new_tokens=new_tokens,
        eos_token_ids=eos,
        pad_token_id=PAD,
        logits_processor=processors,
        seed=seed,
    )
    assert sequences.shape == expected.shape
    for b, (row, should) in enumerate(zip(sequences, expected, strict=True)):
        if torch.equal(row, should):
            continue
        first = int((row != should).nonzero()[0])
        real = torch.cat([inputs.mask[b].bool(), torch.ones(first - PROMPT, dtype=torch.bool)])
        prefix = should[:first][real][None]
        margin = _decision_margin(
            model, prefix, first - PROMPT, config, selector, seed + b, processors
        )
        assert margin < TIE, (
            f"row {b} parts from the reference at new token {first - PROMPT}, where its decision "
            f"has a margin of {margin:.1e}:\n{row.tolist()}\n{should.tolist()}"
        )


@torch.no_grad()
def _decision_margin(model, prefix, step, config, selector, seed, processors) -> float:
    """How close the reference's closest decision at this step is."""
    with reference_decoding._adapter(model, on=config.proposer == "adapted"):
        logits, hidden = reference_decoding._last_state(model, prefix)
    if processors is not None:
        logits = processors(prefix, logits)
    reserved = selector.reserved_ids if selector is not None else ()
    blocked = torch.tensor(reserved) if reserved else None
    proposal = s2t_ext.reference.propose_candidates(logits, config.k, config.support, blocked)
    trigger = resolve_trigger(config, selector)
    inputs = reference_decoding._inputs(proposal, hidden, selector, seed, step)
    statistic = trigger.statistic(inputs, step)
    two = s2t_ext.reference.propose_candidates(logits, 2, 2, blocked).logits[0]
    margins = [float(two[0] - two[1])]
    if trigger.is_calibrated:
        margins.append(abs(float(statistic) - trigger.threshold))
    if selector is not None and bool(trigger.fires(statistic, step)):
        with reference_decoding._adapter(model, on=True):
            totals = torch.stack([
                selector.score(reference_decoding._last_state(model, _append(prefix, c))[1])[0]
                for c in proposal.ids[0].tolist()
            ])  # fmt: skip
        totals = totals + selector.prior_weight * (proposal.logits - proposal.logsumexp)[0]
        best = totals.topk(min(2, len(totals))).values
        margins += (best[:-1] - best[1:]).tolist()
    return min(margins)


def _append(prefix: torch.Tensor, token: int) -> torch.Tensor:
    return torch.cat([prefix, torch.tensor([[token]])], dim=1)


def as_a_library_s(kind: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """The class, posing as one that comes with transformers: those, the self-test judges alone."""
    kind.__module__ = kind.forward.__module__ = "transformers.models"
    return kind


def add_adapter(
    model: hf.PreTrainedModel, *, save_head: bool = False, scale: float = 0.5, seed: int = 9
):
    """Wraps `model` (in place, as PEFT does) with a random LoRA on attention and MLP; with
    `save_head` it has its own copy of the head too. `scale` 0 makes an adapter that does nothing.
    """
    from peft import LoraConfig, get_peft_model

    names = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if hasattr(m, "in_features")}
    if model.config.model_type in ("falcon_h1", "mamba2"):
        names -= {"out_proj"}  # PEFT refuses it in recurrent blocks
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=sorted(names - {"lm_head"}),
        modules_to_save=["lm_head"] if save_head else None,
    )
    generator = torch.Generator().manual_seed(seed)
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and scale):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise, alpha=scale * (0.3 if "modules_to_save" in name else 1.0))
    return adapted


class Collects(hf.generation.streamers.BaseStreamer):
    """A streamer that keeps what it gets."""

    def __init__(self):
        self.pieces, self.ended = [], 0

    def put(self, value):
        self.pieces.append(value.clone())

    def end(self):
        self.ended += 1


# The three ways into `generate`.
WAYS_IN = ("generate", "custom_generate", "patch")


def way_in(way: str, model, config: s2t_ext.S2TConfig, selector=None, **options) -> Callable:
    """`model.generate` with Select-to-Think decoding, by one of `WAYS_IN`; takes its arguments."""

    def by_patch(**arguments):
        s2t_ext.patch(model, config, selector, **options)
        try:
            return model.generate(**arguments)
        finally:
            s2t_ext.unpatch(model)

    if way == "patch":
        return by_patch
    if way == "custom_generate":
        method = s2t_ext.decoding_method(config, selector, **options)
        return functools.partial(model.generate, custom_generate=method)
    return functools.partial(s2t_ext.generate, model, s2t=config, selector=selector, **options)


def make_tokenizer(chat_template: str | None = None) -> hf.PreTrainedTokenizerFast:
    """One token per printable character, in the order of ASCII; ids 0, 1, 2 are special."""
    import tokenizers

    characters = [chr(c) for c in range(33, 126)] + ["\u0120"]  # the last is the space
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", *characters])}
    assert len(vocabulary) == VOCAB
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        padding_side="left",
        chat_template=chat_template,
    )
