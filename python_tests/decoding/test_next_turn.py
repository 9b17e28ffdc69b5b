"""The returned cache goes on: it holds all tokens but the last, whichever of the last steps made a
choice, in every architecture.
"""

import pytest
import torch
from architectures import ARCHITECTURES, PAD
from models import make_selector, prompts, tiny_model, way_in

from s2t_ext import S2TConfig
from s2t_ext.hf.cache_argument import CACHE_ARGUMENT, cache_name_of

# Of the last two steps: which of them made a choice. Every combination occurs among the seeds.
ENDINGS = {(False, False), (False, True), (True, False), (True, True)}


@pytest.mark.parametrize("step", ["auto", "expand"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_cache_continues_after_any_ending(name, step):
    model, ids, seen = tiny_model(name), prompts(False).ids[:1], set()
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    for seed in range(12):
        output = way_in("generate", model, config, make_selector(model), seed=seed)(
            input_ids=ids,
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
        )
        triggered = output.s2t.rows[0].triggered_steps
        ending = (2 in triggered, 3 in triggered)
        if ending in seen:
            continue
        seen.add(ending)
        last = output.sequences[:, -1:]
        with torch.no_grad():
            expected = model(output.sequences).logits[:, -1]
            cache = {cache_name_of(model): output[CACHE_ARGUMENT]}
            actual = model(last, **cache).logits[:, -1]
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0, msg=f"after {ending}")
    assert seen == ENDINGS
