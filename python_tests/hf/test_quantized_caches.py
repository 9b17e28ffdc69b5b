"""Caches that round keys and values: what follows a choice reads the same rounded numbers as the
plain loop.
"""

import pytest
import torch
import transformers
from architectures import PAD, PROMPT
from models import make_selector, prompts, tiny_model, way_in
from transformers.cache_utils import DynamicLayer, QuantizedLayer

from s2t_ext import S2TConfig

IDLE = S2TConfig(trigger="entropy", threshold=1e3)
HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)


def arguments_of(backend, max_new_tokens, **more):
    """Of a generation with a quantised cache; every row runs to the end."""
    inputs = prompts(True)
    return dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=max_new_tokens,
        eos_token_id=None,
        pad_token_id=PAD,
        do_sample=False,
        cache_implementation="quantized",
        cache_config=dict(backend=backend),
        **more,
    )


@pytest.mark.skipif(
    not hasattr(transformers.cache_utils, "Fp8QuantizedLayer"),
    reason="the other quantized caches need packages of their own",
)
def test_a_quantized_cache_expands():
    """FP8 needs no other package. Ordinary and candidate steps read the same rounded keys."""
    model, arguments = tiny_model("llama"), arguments_of("fp8", 6)
    selector = make_selector(model)
    expected = model.generate(**arguments)
    assert torch.equal(way_in("generate", model, IDLE, selector)(**arguments), expected)
    certain = make_selector(model, prior_weight=1e6)  # always the favourite, by a choice
    output = way_in("generate", model, ALWAYS, certain)(**arguments, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected)
    assert output.s2t.step_mode == "expand" and output.s2t.triggers > 0
    assert output.s2t.step_reason == "the given QuantizedCache cannot hold alternatives"


class RoundedLayer(QuantizedLayer):
    """Rounds every number for itself, and every three tokens anew; needs no package."""

    def __init__(self):
        super().__init__(residual_length=3)

    def _quantize(self, tensor, axis):
        return (tensor * 16).round()

    def _dequantize(self, q_tensor):
        return q_tensor / 16


class RowsStay(RoundedLayer):
    """As before transformers 5.19."""

    reorder_cache = DynamicLayer.reorder_cache


class Dictated:
    """A logits processor that leaves the plain loop no choice."""

    def __init__(self, tokens, prompt):
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, input_ids, scores):
        taken = self.tokens[:, input_ids.shape[1] - self.prompt][:, None]
        return torch.full_like(scores, -torch.inf).scatter(1, taken, 0.0)


@pytest.mark.parametrize("layer", [RoundedLayer, RowsStay])
@pytest.mark.parametrize("config", [HALF, ALWAYS], ids=["half", "always"])
def test_quantized_layers_follow_the_choices(config, layer, monkeypatch):
    """What the model computes after a choice is what the plain loop computes on the same tokens."""
    monkeypatch.setattr(transformers.cache_utils, "QuantoQuantizedLayer", layer)
    outputs = dict(return_dict_in_generate=True, output_logits=True)
    model, arguments = tiny_model("llama"), arguments_of("quanto", 10, **outputs)
    generate = way_in("generate", model, config, make_selector(model))
    if layer.reorder_cache is DynamicLayer.reorder_cache:
        with pytest.raises(ValueError, match="'quantized' where choices are made before"):
            generate(**arguments)
        never = way_in("generate", model, S2TConfig(trigger="never"), None)
        assert torch.equal(never(**arguments).sequences, model.generate(**arguments).sequences)
        return
    output = generate(**arguments)
    assert output.s2t.step_mode == "expand" and output.s2t.changed_tokens > 0
    dictated = Dictated(output.sequences[:, PROMPT:], PROMPT)
    plain = model.generate(**arguments, logits_processor=[dictated])
    assert torch.equal(plain.sequences, output.sequences)
    for actual, expected in zip(output.logits, plain.logits, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
