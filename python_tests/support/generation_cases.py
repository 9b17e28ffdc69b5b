"""Random calls of `generate`: any architecture, way in, trigger, selection, prompt and arguments,
drawn by hypothesis and compared with the reference.
"""

import functools
from dataclasses import dataclass, field

import torch
from architectures import EOS, PAD, PROMPT, VOCAB
from hypothesis import strategies as st
from models import (
    WAYS_IN,
    Prompts,
    add_adapter,
    assert_equals_reference,
    build_model,
    make_selector,
    tiny_model,
    way_in,
)
from tiny_teachers import teacher_model
from transformers import LogitsProcessorList
from transformers.generation import logits_process as process

import s2t_ext
from s2t_ext import S2TConfig, Teacher

# Recomputing every prefix takes long.
SLOW = ("qwen3_next",)
ADAPTED = ("llama", "gemma3", "mistral_window", "gpt_neox", "falcon_h1", "mamba2", "bloom")
SUPPRESSED = list(range(20, 60))

# Arguments that change the logits, in transformers' order, and the processor the reference needs.
# Those of the second table read the prompt or its length, which padding changes.
OF_ANY_PROMPT = {
    "sequence_bias": (
        dict(sequence_bias=[[[t], 4.0] for t in range(70, 80)]),
        lambda new: process.SequenceBiasLogitsProcessor([[[t], 4.0] for t in range(70, 80)]),
    ),
    "suppress_tokens": (
        dict(suppress_tokens=SUPPRESSED),
        lambda new: process.SuppressTokensLogitsProcessor(SUPPRESSED),
    ),
}
OF_UNPADDED_PROMPTS = {
    "repetition_penalty": (
        dict(repetition_penalty=1.5),
        lambda new: process.RepetitionPenaltyLogitsProcessor(1.5),
    ),
    "no_repeat_ngram_size": (
        dict(no_repeat_ngram_size=2),
        lambda new: process.NoRepeatNGramLogitsProcessor(2),
    ),
    "forced_eos_token_id": (
        dict(forced_eos_token_id=EOS),
        lambda new: process.ForcedEOSTokenLogitsProcessor(PROMPT + new, EOS, device="cpu"),
    ),
}
PROCESSORS = {**OF_ANY_PROMPT, **OF_UNPADDED_PROMPTS}
# How the same numbers are computed or returned.
OTHERS = {
    "scores": dict(output_scores=True),
    "logits": dict(output_logits=True),
    "dynamic": dict(cache_implementation="dynamic"),
    "chunked": dict(prefill_chunk_size=4),
    "renormalized": dict(renormalize_logits=True),
}


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        name: The architecture.
        way: One of `WAYS_IN`.
        lengths: Real tokens of every row, of PROMPT; the rest is padding.
        config: The options.
        selector: Options of the score head.
        arguments: Names from `PROCESSORS` and `OTHERS`.
        new_tokens: As in `generate`.
        eos: End-of-sequence tokens.
        seed: Of the prompt and of the generation.
    """

    name: str
    way: str
    lengths: tuple[int, ...]
    config: S2TConfig
    selector: dict = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    new_tokens: int = 6
    eos: tuple[int, ...] = (EOS,)
    seed: int = 0

    @property
    def prompts(self) -> Prompts:
        generator = torch.Generator().manual_seed(self.seed)
        ids = torch.randint(3, VOCAB, (len(self.lengths), PROMPT), generator=generator)
        mask = torch.arange(PROMPT) >= PROMPT - torch.tensor(self.lengths)[:, None]
        return Prompts(ids.where(mask, PAD), mask.long())

    @property
    def has_teacher(self) -> bool:
        return self.config.select != "local" or self.config.trigger == "kl"

    @property
    def model(self):
        return adapted_model(self.name) if self.config.proposer == "base" else tiny_model(self.name)


@functools.cache
def adapted_model(name: str):
    return add_adapter(build_model(name)).get_base_model()


@functools.cache
def shared_teacher():
    return teacher_model()


@st.composite
def configs(draw, name: str) -> S2TConfig:
    trigger = draw(st.sampled_from(["never", "always", "random", "entropy", "margin", "kl"]))
    if trigger == "never":
        return S2TConfig(trigger="never", k=draw(st.integers(1, 64)))
    select = draw(st.sampled_from(["local", "local", "teacher", "takeover"]))
    thresholds = {"random": (0.0, 1.0), "entropy": (1.0, 4.0), "margin": (0.0, 3.0), "kl": (0, 6)}
    k = draw(st.integers(1, 6))
    with_base = select == "local" and trigger != "kl" and name in ADAPTED
    return S2TConfig(
        k=k,
        support=draw(st.sampled_from([0, 64, k, k + 3])),
        candidate_ratio=draw(st.sampled_from([0.0, 0.0, 0.2])),
        trigger=trigger,
        threshold=draw(st.floats(*thresholds[trigger])) if trigger in thresholds else None,
        warmup_steps=draw(st.integers(0, 3)),
        select=select,
        proposer=draw(st.sampled_from(["adapted", "base"])) if with_base else "adapted",
        override_margin=draw(st.sampled_from([0.0, 0.0, 0.1])) if select != "takeover" else 0.0,
        step=draw(st.sampled_from(["auto", "expand"])),
    )


@st.composite
def cases(draw, name: str) -> Case:
    """Calls of one architecture."""
    config = draw(configs(name))
    lengths = draw(st.lists(st.sampled_from([PROMPT, 1, 2, 5, 8]), min_size=1, max_size=3))
    is_unpadded = set(lengths) == {PROMPT}
    case = Case(name, draw(st.sampled_from(WAYS_IN)), tuple(lengths), config)
    known = list(PROCESSORS if is_unpadded else OF_ANY_PROMPT)
    chosen = draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
    if case.has_teacher:
        chosen = []  # the reference with a teacher takes no processors
    chosen = [n for n in PROCESSORS if n in chosen]
    others = [n for n in OTHERS if (n, name) != ("chunked", "mamba2")]  # transformers cannot
    chosen += draw(st.lists(st.sampled_from(others), max_size=2, unique=True))
    selector = dict(
        bins=draw(st.integers(2, 16)),
        prior_weight=draw(st.sampled_from([0.0, 0.2, -0.1])),
        reserved_ids=draw(st.sampled_from([(), tuple(range(80, 90))])),
    )
    return Case(
        name,
        case.way,
        case.lengths,
        config,
        selector,
        tuple(chosen),
        draw(st.sampled_from([3, 2, 1] if name in SLOW else [6, 1, 2, 3, 8, 10])),
        tuple(draw(st.sampled_from([[EOS], list(range(60, 97)), [EOS, *range(3, 12)]]))),
        draw(st.integers(0, 2**31)),
    )


def run(case: Case) -> s2t_ext.S2TGenerateOutput:
    """What `generate` makes of it."""
    config, model = case.config, case.model
    selector = make_selector(model, **case.selector)
    if config.trigger == "never" or config.select != "local":
        selector = None
    teacher = Teacher.from_model(shared_teacher()) if case.has_teacher else None
    return way_in(case.way, model, config, selector, teacher=teacher, seed=case.seed)(
        **arguments_of(case)
    )


def arguments_of(case: Case) -> dict:
    inputs = case.prompts
    arguments = dict(input_ids=inputs.ids, attention_mask=inputs.mask, do_sample=False)
    arguments |= dict(max_new_tokens=case.new_tokens, eos_token_id=list(case.eos), pad_token_id=PAD)
    for name in case.arguments:
        arguments |= PROCESSORS[name][0] if name in PROCESSORS else OTHERS[name]
    return arguments | dict(return_dict_in_generate=True)


def check(case: Case) -> None:
    """Raises AssertionError where the output is not the reference's."""
    output, inputs, config = run(case), case.prompts, case.config
    if config.trigger == "never":
        expected = case.model.generate(**arguments_of(case))
        assert torch.equal(output.sequences, expected.sequences)
        for name in ("scores", "logits"):
            ours, theirs = output.get(name), expected.get(name)
            assert (ours is None) == (theirs is None)
            assert theirs is None or torch.equal(torch.stack(ours), torch.stack(theirs))
        return
    shared = dict(config=config, eos=case.eos, new_tokens=case.new_tokens, seed=case.seed)
    selector = make_selector(case.model, **case.selector) if config.select == "local" else None
    if case.has_teacher:
        expected = s2t_ext.reference.decode_with_teacher(
            case.model,
            shared_teacher(),
            inputs.ids,
            inputs.mask,
            config=config,
            selector=selector,
            max_new_tokens=case.new_tokens,
            eos_token_ids=case.eos,
            pad_token_id=PAD,
            seed=case.seed,
        )
        assert output.sequences.tolist() == expected.tolist()
    else:
        processors = [PROCESSORS[n][1](case.new_tokens) for n in case.arguments if n in PROCESSORS]
        assert_equals_reference(
            output.sequences,
            case.model,
            inputs,
            selector=selector,
            processors=LogitsProcessorList(processors),
            **shared,
        )
    assert_record_fits(output, case)


def assert_record_fits(output: s2t_ext.S2TGenerateOutput, case: Case) -> None:
    """The record speaks of the tokens that were returned, and the cache holds all but the last."""
    for new, row in zip(output.sequences[:, PROMPT:].tolist(), output.s2t.rows, strict=True):
        assert new[: row.steps] == row.tokens
        assert set(new[row.steps :]) <= {PAD}
        assert row.steps == case.new_tokens or row.tokens[-1] in case.eos
        assert all(step >= case.config.warmup_steps for step in row.triggered_steps)
        assert set(row.changed_steps) <= set(row.triggered_steps)
    cache = output.past_key_values
    if case.name != "mamba2":  # a state without a length
        assert int(cache.get_seq_length()) == output.sequences.shape[1] - 1
