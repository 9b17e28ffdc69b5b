"""Rows whose logits hold no valid value stop; the others go on."""

import logging

import pytest
import torch
from architectures import PAD, PROMPT
from models import as_a_library_s, build_model, make_selector, prompts, tiny_model, way_in
from transformers import (
    LlamaModel,
    LogitsProcessor,
    LogitsProcessorList,
)

from s2t_ext import S2TConfig

ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
NEVER = S2TConfig(trigger="never")


class Breaks(LogitsProcessor):
    """At some new tokens of some rows, nothing is left."""

    def __init__(self, value: float, row: int, steps: range) -> None:
        self.value, self.row, self.steps = value, row, steps

    def __call__(self, input_ids, scores):
        if input_ids.shape[1] - PROMPT in self.steps:
            scores[self.row] = self.value
        return scores


WARNING = "generate: logits must hold a valid value, got none in rows [1]"


@pytest.mark.parametrize(
    "config", [NEVER, ALWAYS, S2TConfig(k=4, trigger="always", warmup_steps=0, step="expand")]
)
@pytest.mark.parametrize("value", [torch.nan, -torch.inf], ids=["nan", "blocked"])
@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampling"])
@pytest.mark.parametrize("with_eos", [False, True], ids=["endless", "eos"])
def test_a_row_without_valid_logits_stops(config, value, do_sample, with_eos, caplog):
    """With a warning, padded from there on, even where its logits would be valid again; the other
    rows as if nothing had happened.
    """
    model, inputs = tiny_model("llama"), prompts(True)
    generate = way_in("generate", model, config, make_selector(model), seed=3)
    arguments = dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=8,
        do_sample=do_sample,
        return_dict_in_generate=True,
        pad_token_id=PAD,
        eos_token_id=96 if with_eos else None,
        suppress_tokens=[96],
    )
    whole = generate(**arguments)
    broken = LogitsProcessorList([Breaks(value, 1, range(4, 6))])
    with caplog.at_level(logging.WARNING, logger="s2t_ext"):
        output = generate(**arguments, logits_processor=broken)
    assert [r.getMessage() for r in caplog.records if r.name == "s2t_ext"] == [WARNING]
    assert torch.equal(output.sequences[[0, 2]], whole.sequences[[0, 2]])
    row = output.sequences[1, PROMPT:].tolist()
    assert row == whole.sequences[1, PROMPT : PROMPT + 4].tolist() + [PAD] * 4
    record = output.s2t.rows[1]
    assert record.tokens[:4] == row[:4] and record.steps in (4, 5)


@pytest.mark.parametrize("config", [NEVER, ALWAYS], ids=["never", "always"])
def test_a_model_that_yields_nan_in_one_row(config, caplog):
    """Mid-generation, from the model itself; every later step of the row is NaN too."""
    model = build_model("llama")
    inputs = prompts(False)
    selector = make_selector(model)
    arguments = dict(input_ids=inputs.ids, max_new_tokens=8, eos_token_id=None, pad_token_id=PAD)
    whole = way_in("generate", model, config, selector)(**arguments)

    @as_a_library_s
    class Spoiling(LlamaModel):
        def forward(self, *arguments, **keywords):
            output = super().forward(*arguments, **keywords)
            positions = keywords["position_ids"]
            if positions is not None and int(positions.max()) >= PROMPT + 2:
                states = output.last_hidden_state
                # Where only row 0 needs a tree, row 1 is the one token behind its candidates.
                states[-1, -1 if states.shape[0] == 1 else slice(None)] = torch.nan
            return output

    model.model.__class__ = Spoiling
    with caplog.at_level(logging.WARNING, logger="s2t_ext"):
        output = way_in("generate", model, config, selector)(**arguments)
    assert [r.getMessage() for r in caplog.records if r.name == "s2t_ext"] == [WARNING]
    assert torch.equal(output[0], whole[0])
    assert output[1, -3:].tolist() == [PAD] * 3
    assert output.min() >= 0


def test_all_rows_without_valid_logits_end_the_generation(caplog):
    model, inputs = tiny_model("llama"), prompts(False)
    everything = list(range(97))
    for config in (NEVER, ALWAYS):
        output = way_in("generate", model, config, make_selector(model))(
            input_ids=inputs.ids, max_new_tokens=5, suppress_tokens=everything, pad_token_id=PAD
        )
        assert output[:, PROMPT:].tolist() == [[PAD], [PAD]]
        assert "got none in rows [0, 1]" in caplog.text
