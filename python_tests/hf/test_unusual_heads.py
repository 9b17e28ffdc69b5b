"""Heads that do not work as usual: never called as modules, hidden altogether, or narrower than
the model.
"""

import pytest
import torch
from architectures import EOS, PAD, VOCAB
from models import (
    assert_equals_reference,
    build_model,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)
from transformers import LlamaForCausalLM, OPTConfig

from s2t_ext import S2TConfig, Selector
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


def narrow_head():
    """As OPT 350M, whose states are projected to the width of its embeddings before the head."""
    config = OPTConfig(vocab_size=VOCAB, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=2)
    config.hidden_size, config.word_embed_proj_dim, config.ffn_dim = 32, 16, 64
    config.num_hidden_layers, config.num_attention_heads = 2, 4
    return build_model(config)


def test_a_head_that_is_narrower_than_the_model():
    model, inputs = narrow_head(), prompts(True)
    selector = Selector.from_reserved_rows(model, [3, 4, 5])
    assert selector.hidden_size == 16
    output = way_in("generate", model, ALWAYS, selector)(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=6
    )
    assert_equals_reference(output, model, inputs, config=ALWAYS, selector=selector, new_tokens=6)
    wide = Selector(torch.randn(3, 32))
    with pytest.raises(ValueError, match="^generate: selector must have rows of .* 16, got 32$"):
        way_in("generate", model, ALWAYS, wide)(input_ids=inputs.ids, max_new_tokens=2)
