"""A selector with every part, what it generates, and the message of a refused load."""

import pytest
import torch
from models import (
    make_selector,
    prompts,
    way_in,
)

from s2t_ext import Calibration, S2TConfig, Selector, TriggerHead
from s2t_ext.hf.identity import describe_base_model
from s2t_ext.selectors.storage import STORED_OPTIONS

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)


def full_selector(model) -> Selector:
    """Every part a selector can have, but an adapter."""
    generator = torch.Generator().manual_seed(1)
    return make_selector(
        model,
        bins=5,
        bias=torch.randn(5, generator=generator),
        bin_values=torch.rand(5, generator=generator),
        reserved_ids=(90, 91),
        bin_temperature=0.7,
        prior_weight=0.125,
        trigger_head=TriggerHead(
            torch.randn(32, generator=generator), -0.5, 0.25, torch.tensor([0.5, -0.5])
        ),
        logit_scale=0.5,
        softcap=9.0,
        base_model=describe_base_model(model),
        calibrations={
            "entropy": Calibration(1.25, 0.01, 1234, "abc"),
            "head": Calibration(0.5, 0.1),
        },
        decoding=S2TConfig(k=3, support=16, trigger="margin", threshold=0.5),
    )


def generated(model, selector, config=ALWAYS) -> torch.Tensor:
    inputs = prompts(True)
    return way_in("generate", model, config, selector)(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=6, do_sample=False
    )


def assert_same(a: Selector, b: Selector) -> None:
    for name in ("rows", "bin_values", "bias"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    for name in (*STORED_OPTIONS, "base_model", "calibrations", "decoding"):
        assert getattr(a, name) == getattr(b, name), name
    assert torch.equal(a.trigger_head.weight, b.trigger_head.weight)
    assert a.trigger_head.bias == b.trigger_head.bias
    assert a.trigger_head.entropy_weight == b.trigger_head.entropy_weight
    assert torch.equal(a.trigger_head.logprob_weights, b.trigger_head.logprob_weights)


def message(folder, model=None, kind=ValueError, **options) -> str:
    with pytest.raises(kind) as error:
        Selector.from_pretrained(folder, model, **options)
    return str(error.value)
