"""The arguments of transformers' `generate`, one by one, through all three ways in: without choices
the tokens are its own, with a choice in every step the argument still holds.
"""

import pytest
import torch
from architectures import BOS, EOS, PAD, PROMPT, VOCAB
from arguments import ALWAYS, IDLE, complete
from models import WAYS_IN, make_selector, prompts, tiny_model, way_in
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    WatermarkingConfig,
)

from s2t_ext import S2TConfig

MANY = list(range(3, 90))  # a row meets one of them at once


class OnlyMultiplesOfThree(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.masked_fill(torch.arange(VOCAB) % 3 != 0, -torch.inf)


class StopsAtLength(StoppingCriteria):
    """Ends a row of its own length: 3, 5 and 7 new tokens."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] - PROMPT >= torch.arange(3, 9, 2)[: input_ids.shape[0]]


def rows(new: torch.Tensor, eos=(EOS,)):
    """The tokens of every row, up to and with its first end-of-sequence token."""
    for row in new.tolist():
        ends = [i for i, token in enumerate(row) if token in eos]
        yield row[: ends[0] + 1] if ends else row


def holds_none_of(forbidden):
    return lambda new: not set(new.flatten().tolist()) & set(forbidden)


def ends_where(new, first: int) -> bool:
    """Rows end at a token of MANY, at the earliest after `first` others, and are padded then."""
    for row, tokens in zip(rows(new, MANY), new.tolist(), strict=True):
        if set(row[:first]) & set(MANY) or set(tokens[len(row) :]) - {PAD}:
            return False
    return True


def holds_no_bigram_twice(new) -> bool:
    prompt = prompts(True)
    for ids, mask, row in zip(prompt.ids, prompt.mask, rows(new), strict=True):
        tokens = ids[mask.bool()].tolist() + row
        bigrams = list(zip(tokens, tokens[1:], strict=False))
        if len(bigrams) > len(set(bigrams)):
            return False
    return True


# name: (arguments, what then holds of the new tokens [batch, length], whoever chooses)
ARGUMENTS = {
    "max_length": (dict(max_length=PROMPT + 5), lambda new: new.shape[1] == 5),
    "max_new_tokens": (dict(max_new_tokens=7), lambda new: new.shape[1] == 7),
    "min_new_tokens": (
        dict(min_new_tokens=4, eos_token_id=MANY),
        lambda new: ends_where(new, 4) and not ends_where(new, 5),
    ),
    "min_length": (
        dict(min_length=PROMPT + 4, eos_token_id=MANY),
        lambda new: ends_where(new, 4) and not ends_where(new, 5),
    ),
    "eos_token_id": (
        dict(eos_token_id=MANY),
        lambda new: ends_where(new, 0) and new.shape[1] < 10,
    ),
    "pad_token_id": (
        dict(eos_token_id=MANY[:20], pad_token_id=BOS),
        lambda new: all(
            set(tokens[len(row) :]) <= {BOS}
            for row, tokens in zip(rows(new, MANY[:20]), new.tolist(), strict=True)
        ),
    ),
    "repetition_penalty": (
        dict(repetition_penalty=1e6),
        lambda new: all(len(set(row)) == len(row) for row in rows(new)),
    ),
    "no_repeat_ngram_size": (dict(no_repeat_ngram_size=2), holds_no_bigram_twice),
    "bad_words_ids": (
        dict(bad_words_ids=[[t] for t in range(20, 80)]),
        holds_none_of(range(20, 80)),
    ),
    "suppress_tokens": (dict(suppress_tokens=list(range(20, 80))), holds_none_of(range(20, 80))),
    "begin_suppress_tokens": (
        dict(begin_suppress_tokens=list(range(20, 80))),
        lambda new: holds_none_of(range(20, 80))(new[:, :1])
        and not holds_none_of(range(20, 80))(new),
    ),
    "forced_eos_token_id": (
        dict(forced_eos_token_id=EOS),
        lambda new: all(row[-1] == EOS for row in rows(new)),
    ),
    "sequence_bias": (
        dict(sequence_bias=[[[t], -1e3] for t in range(20, 80)]),
        holds_none_of(range(20, 80)),
    ),
    "exponential_decay_length_penalty": (
        dict(exponential_decay_length_penalty=(3, 1e3)),
        lambda new: True,
    ),
    "encoder_no_repeat_ngram_size": (
        dict(encoder_no_repeat_ngram_size=1),
        lambda new: all(
            not set(row) & set(ids.tolist())
            for row, ids in zip(rows(new), prompts(True).ids, strict=True)
        ),
    ),
    "encoder_repetition_penalty": (dict(encoder_repetition_penalty=1e6), lambda new: True),
    "prefix_allowed_tokens_fn": (
        dict(prefix_allowed_tokens_fn=lambda batch, ids: [10 + batch, 20 + batch]),
        lambda new: all(
            set(row.tolist()) <= {10 + b, 20 + b} and len(set(row.tolist())) > 0
            for b, row in enumerate(new)
        ),
    ),
    "logits_processor": (
        dict(logits_processor=LogitsProcessorList([OnlyMultiplesOfThree()])),
        lambda new: all(t % 3 == 0 for row in rows(new) for t in row),
    ),
    "stopping_criteria": (
        dict(stopping_criteria=StoppingCriteriaList([StopsAtLength()]), suppress_tokens=[EOS]),
        lambda new: new.shape[1] == 7 and set(new[0, 3:].tolist()) == {PAD},
    ),
    "max_time": (dict(max_time=0.0), lambda new: new.shape[1] == 1),
    "remove_invalid_values": (dict(remove_invalid_values=True), lambda new: True),
    "renormalize_logits": (dict(renormalize_logits=True), lambda new: True),
    "watermarking_config": (
        dict(watermarking_config=WatermarkingConfig(bias=1e3, seeding_scheme="lefthash")),
        lambda new: True,
    ),
    "prefill_chunk_size": (dict(prefill_chunk_size=4), lambda new: True),
    "cache_implementation=dynamic": (dict(cache_implementation="dynamic"), lambda new: True),
    "cache_implementation=static": (dict(cache_implementation="static"), lambda new: True),
    "disable_compile": (dict(disable_compile=True), lambda new: True),
    "generation_config": (
        dict(
            generation_config=GenerationConfig(
                max_new_tokens=6, suppress_tokens=[EOS, *MANY], pad_token_id=PAD, eos_token_id=EOS
            )
        ),
        lambda new: new.shape[1] == 6 and holds_none_of(MANY)(new),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_argument(name, way):
    """Its tokens without choices; and choices among what transformers' processors leave."""
    arguments, holds = ARGUMENTS[name]
    model = tiny_model("llama")
    selector = make_selector(model)
    expected = model.generate(
        **complete(arguments), return_dict_in_generate=True, output_scores=True
    )
    assert holds(expected.sequences[:, PROMPT:])
    idle = way_in(way, model, IDLE, selector)(**complete(arguments))
    assert torch.equal(idle, expected.sequences)
    events = []
    generate = way_in(way, model, ALWAYS, selector, on_step=events.append)
    chosen = generate(**complete(arguments))
    assert holds(chosen[:, PROMPT:])
    best = expected.scores[0].topk(4)
    assert torch.equal(events[0].candidates, best.indices.where(best.values > -torch.inf, -1))


@pytest.mark.parametrize("name", ["prefill_chunk_size", "cache_implementation=static"])
@pytest.mark.parametrize("architecture", ["llama", "mistral_window", "gemma3"])
def test_how_it_is_computed_changes_no_choice(architecture, name):
    """Chunks and static caches choose what plain decoding chooses."""
    model = tiny_model(architecture)
    generate = way_in("generate", model, ALWAYS, make_selector(model))
    plain = generate(**complete({}))
    output = generate(**complete({**ARGUMENTS[name][0], "return_dict_in_generate": True}))
    assert torch.equal(output.sequences, plain)
    expands = "static" in name and architecture != "llama"  # a window evicts as it writes
    assert output.s2t.step_mode == ("expand" if expands else "tree")


@pytest.mark.parametrize("way", WAYS_IN)
def test_the_model_s_own_generation_config_counts(way):
    model = tiny_model("llama")
    before = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=4, suppress_tokens=[EOS, *MANY], pad_token_id=PAD, eos_token_id=EOS
    )
    try:
        inputs = dict(input_ids=prompts(False).ids)
        expected = model.generate(**inputs)
        selector = make_selector(model)
        assert torch.equal(way_in(way, model, IDLE, selector)(**inputs), expected)
        new = way_in(way, model, ALWAYS, selector)(**inputs)[:, PROMPT:]
        assert new.shape[1] == 4 and holds_none_of(MANY)(new)
    finally:
        model.generation_config = before


@pytest.mark.parametrize("way", WAYS_IN)
def test_forced_bos_token_id(way):
    """Forces the first token after a prompt of one."""
    model = tiny_model("llama")
    for config in (IDLE, ALWAYS):
        output = way_in(way, model, config, make_selector(model))(
            input_ids=torch.tensor([[5], [6]]), forced_bos_token_id=42, max_new_tokens=3
        )
        assert output[:, 1].tolist() == [42, 42]


@pytest.mark.parametrize("way", WAYS_IN)
def test_padding_is_inferred_without_a_mask(way):
    model, inputs = tiny_model("llama"), prompts(True)
    expected = model.generate(inputs.ids, max_new_tokens=6, do_sample=False)
    selector = make_selector(model)
    arguments = dict(max_new_tokens=6, do_sample=False)
    idle = way_in(way, model, IDLE, selector)(inputs=inputs.ids, **arguments)
    assert torch.equal(idle, expected)
    chosen = way_in(way, model, ALWAYS, selector)
    assert torch.equal(
        chosen(input_ids=inputs.ids, **arguments),
        chosen(input_ids=inputs.ids, attention_mask=inputs.mask, **arguments),
    )


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_position_ids(name, way):
    """Positions of the caller's own, honoured by the tree as by one-token forwards."""
    model, ids = tiny_model(name), prompts(False).ids
    arguments = dict(
        input_ids=ids, position_ids=torch.arange(PROMPT).expand(2, -1) * 2, max_new_tokens=6
    )
    selector = make_selector(model)
    expected = model.generate(**arguments, do_sample=False)
    assert torch.equal(way_in(way, model, IDLE, selector)(**arguments), expected)
    tree = way_in(way, model, ALWAYS, selector)(**arguments)
    expanded = S2TConfig(k=4, trigger="always", warmup_steps=0, step="expand")
    assert torch.equal(tree, way_in("generate", model, expanded, selector)(**arguments))
    usual = way_in("generate", model, ALWAYS, selector)(input_ids=ids, max_new_tokens=6)
    assert not torch.equal(tree, usual)
