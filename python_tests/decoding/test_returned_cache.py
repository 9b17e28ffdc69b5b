"""A returned cache holds all tokens but the last, whichever of the last steps made a choice: the
next turn of a conversation goes on with it.
"""

import pytest
import torch
from architectures import ARCHITECTURES, PAD
from models import make_selector, prompts, tiny_model, way_in
from transformers import DynamicCache

from s2t_ext import S2TConfig
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT, cache_name_of
from s2t_ext.ops.reference import philox

ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)
# Where transformers' own next turn goes wrong with its own cache: it takes the prompt again.
RECOMPUTED = ("mamba2",)
# Of the last two steps: both choose, only the first, only the second, none.
ENDS = [(True, True), (True, False), (False, True), (False, False)]


def seed_for(end, steps):
    """A seed with which `random` < 0.5 fires in every row, or in none, as `end` says."""
    for seed in range(1000):
        position = torch.arange(steps)
        uniform = philox.uniform24(
            torch.full_like(position, seed), position, philox.PURPOSE_TRIGGER
        )
        if tuple((uniform < 0.5)[-2:].tolist()) == end:
            return seed
    raise AssertionError("no seed ends like this")


def after_last(model, inputs, sequences, cache):
    """Logits after the last token: of all tokens, or of the last one with the cache."""
    grown = torch.ones_like(sequences[:, inputs.ids.shape[1] :])
    mask = torch.cat([inputs.mask, grown], dim=1)
    with torch.no_grad():
        ids = sequences[:, -1:] if cache else sequences
        return model(input_ids=ids, attention_mask=mask, **cache).logits[:, -1]


def next_turn(model, inputs, sequences, **cache):
    grown = torch.ones_like(sequences[:, inputs.ids.shape[1] :])
    return model.generate(
        input_ids=sequences,
        attention_mask=torch.cat([inputs.mask, grown], dim=1),
        max_new_tokens=4,
        **ENDLESS,
        **cache,
    )


@pytest.mark.parametrize("end", ENDS, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_next_turn_goes_on_with_it(name, end):
    model, selector, inputs = tiny_model(name), make_selector(tiny_model(name)), prompts(True)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
    first = seed_for(end, 5)
    output = way_in("generate", model, config, selector, seed=[first] * 3)(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=5,
        return_dict_in_generate=True,
        **ENDLESS,
    )
    fired = [5 - 2 in row.triggered_steps for row in output.s2t.rows]
    assert fired == [end[0]] * 3
    cache = {cache_name_of(model): output[CACHE_ARGUMENT]}
    if name in RECOMPUTED:
        expected = after_last(model, inputs, output.sequences, {})
        actual = after_last(model, inputs, output.sequences, cache)
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-4)
        return
    expected = next_turn(model, inputs, output.sequences)
    assert torch.equal(next_turn(model, inputs, output.sequences, **cache), expected)


@pytest.mark.parametrize("step", ["auto", "expand"])
@pytest.mark.parametrize("end", ENDS, ids=str)
def test_so_does_a_cache_the_caller_gave(step, end):
    model, selector, inputs = tiny_model("llama"), make_selector(tiny_model("llama")), prompts(True)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    cache = {CACHE_ARGUMENT: DynamicCache(config=model.config)}
    generate = way_in("generate", model, config, selector, seed=[seed_for(end, 5)] * 3)
    options = dict(attention_mask=inputs.mask, max_new_tokens=5, **ENDLESS, **cache)
    sequences = generate(input_ids=inputs.ids, **options)
    assert cache[CACHE_ARGUMENT].get_seq_length() == sequences.shape[1] - 1
    expected = next_turn(model, inputs, sequences)
    assert torch.equal(next_turn(model, inputs, sequences, **cache), expected)
