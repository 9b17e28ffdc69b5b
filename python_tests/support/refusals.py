"""What a generation refuses, in words."""

import pytest
from architectures import PROMPT
from models import make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
NEVER = S2TConfig(trigger="never")


def refusal(way, config=ALWAYS, model=None, selector=None, kind=ValueError, **arguments) -> str:
    """The message; a right call then works, so nothing was left behind."""
    model = model or tiny_model("llama")
    selector = selector or make_selector(model)
    arguments = {"input_ids": prompts(False).ids, "max_new_tokens": 3, **arguments}
    with pytest.raises(kind) as error:
        way_in(way, model, config, selector)(**arguments)
    good = way_in(way, model, NEVER)(input_ids=prompts(False).ids, max_new_tokens=3)
    assert good.shape == (2, PROMPT + 3) or kind is not ValueError
    return str(error.value)
