"""Heads that do not work as usual: never called as modules, or hidden altogether."""

import pytest
import torch
from models import build_model, make_selector, prompts, tiny_model, way_in
from transformers import LlamaForCausalLM

from s2t_ext import S2TConfig
from s2t_ext.hf.logits_head import find_logits_head

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
EXPAND = S2TConfig(k=4, trigger="always", warmup_steps=0, step="expand")
ONE = S2TConfig(k=1, trigger="always", warmup_steps=0)


def decode(model, config=ALWAYS, new_tokens=6):
    generate = way_in("generate", model, config, make_selector(tiny_model("llama")))
    return generate(
        input_ids=prompts(False).ids, max_new_tokens=new_tokens, return_dict_in_generate=True
    )


def test_a_head_that_is_never_called():
    """Logits by a product with its weight: what its body returns is what the head would read."""

    class Fused(LlamaForCausalLM):
        def forward(self, input_ids=None, **options):
            output = self.model(input_ids=input_ids, **options)
            output["logits"] = output.last_hidden_state @ self.lm_head.weight.T
            return output

    model = build_model("llama")
    expected = decode(model)
    model.__class__ = Fused
    head = find_logits_head(model)
    assert head.body is model.model and head.module is model.lm_head and not head.is_called
    for config in (ALWAYS, EXPAND):
        output = decode(model, config)
        assert torch.equal(output.sequences, expected.sequences)


def test_a_head_that_nothing_shows_is_refused_in_words():
    """Never called, and its product is none of the model's logits."""

    class Odd(LlamaForCausalLM):
        def forward(self, input_ids=None, **options):
            output = self.model(input_ids=input_ids, **options)
            output["logits"] = (output.last_hidden_state @ self.lm_head.weight.T).sin()
            return output

    model = build_model("llama")
    model.__class__ = Odd
    with pytest.raises(ValueError) as error:
        decode(model)
    assert str(error.value) == (
        "generate: model must have a language-model head that is a module of its own where hidden "
        "states are read, got Odd (set trigger='never')"
    )
    ids = prompts(False).ids
    never = way_in("generate", model, S2TConfig(trigger="never"))
    plain = model.generate(ids, max_new_tokens=4)
    assert torch.equal(never(input_ids=ids, max_new_tokens=4), plain)
