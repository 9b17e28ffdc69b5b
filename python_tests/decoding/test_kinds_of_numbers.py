"""Arguments of `generate` itself as transformers takes them: whole numbers that are floats, truth
that is a number.
"""

import numpy as np
import pytest
import torch
import transformers
from models import make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
NEVER = S2TConfig(trigger="never")


def run(config=ALWAYS, **options):
    model = tiny_model("llama")
    generate = way_in("generate", model, config, make_selector(model), seed=3)
    arguments = dict(input_ids=prompts(False).ids, max_new_tokens=6, eos_token_id=None)
    return generate(**{**arguments, **options})


@pytest.mark.parametrize("length", [4.0, 3.5, np.int64(4), torch.tensor(4)])
def test_lengths(length):
    """Transformers compares them only: 3.5 tokens are 4."""
    assert torch.equal(run(max_new_tokens=length), run(max_new_tokens=4))


@pytest.mark.parametrize("value", [None, 0])
def test_neither_with_a_cache_nor_without(value):
    """Transformers then fills a cache and reads all tokens again at every step."""
    options = dict(use_cache=value, max_new_tokens=6, eos_token_id=None)
    expected = tiny_model("llama").generate(prompts(False).ids, **options)
    assert torch.equal(run(NEVER, use_cache=value), expected)
    with pytest.raises(ValueError) as error:
        run(ALWAYS, use_cache=value)
    rule = "generate: use_cache must be True or False where choices are made"
    assert str(error.value).startswith(rule) and str(error.value).endswith(f", got {value!r}")


class Stops(transformers.StoppingCriteria):
    """After `length` tokens, in the caller's own kind of truth."""

    def __init__(self, length, kind):
        self.length, self.kind = length, kind

    def __call__(self, input_ids, scores, **others):
        return self.kind(input_ids.shape[1] >= self.length, input_ids.shape[0])


@pytest.mark.parametrize(
    "kind",
    [
        lambda stops, rows: stops,
        lambda stops, rows: torch.tensor(stops),
        lambda stops, rows: torch.full((rows,), stops),
        lambda stops, rows: torch.full((rows,), int(stops)),
        lambda stops, rows: torch.full((rows,), int(stops), dtype=torch.uint8),
    ],
)
def test_kinds_of_truth_of_a_stopping_criterion(kind):
    length = prompts(False).ids.shape[1] + 3
    for config in (NEVER, ALWAYS):
        actual = run(config, stopping_criteria=[Stops(length, kind)])
        assert torch.equal(actual, run(config)[:, :length])
