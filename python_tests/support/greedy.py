"""Greedy generations, and the reference's verdict on them."""

from models import Prompts, assert_equals_reference

import s2t_ext
from s2t_ext import S2TConfig


def run(model, inputs: Prompts, config: S2TConfig, selector=None, new_tokens=12, **options):
    """`s2t_ext.generate`, greedy, with the record."""
    return s2t_ext.generate(
        model,
        inputs.ids,
        attention_mask=inputs.mask,
        s2t=config,
        selector=selector,
        max_new_tokens=new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        **options,
    )


def check(model, inputs: Prompts, config: S2TConfig, selector, new_tokens=12, **options):
    """Runs and compares with the reference; returns the record."""
    output = run(model, inputs, config, selector, new_tokens, **options)
    assert_equals_reference(
        output.sequences,
        model,
        inputs,
        config=config,
        selector=selector,
        new_tokens=new_tokens,
        seed=options.get("seed", 0),
    )
    return output.s2t
