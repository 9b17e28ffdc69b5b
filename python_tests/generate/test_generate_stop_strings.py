"""Stop strings, through all ways in."""

import pytest
import torch
from architectures import EOS, PAD, PROMPT
from arguments import ALWAYS, IDLE, complete
from models import WAYS_IN, make_selector, make_tokenizer, prompts, tiny_model, way_in
from transformers import GenerationConfig


def test_stop_strings():
    model, tokenizer = tiny_model("llama"), make_tokenizer()
    selector = make_selector(model)
    for config in (IDLE, ALWAYS):
        free = way_in("generate", model, config, selector)(**complete({}))
        stop = tokenizer.decode(free[2, PROMPT + 3 : PROMPT + 5])
        arguments = complete(dict(stop_strings=[stop], tokenizer=tokenizer))
        outputs = [way_in(way, model, config, selector)(**arguments) for way in WAYS_IN]
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        assert outputs[0][2, PROMPT + 5 :].tolist() == [PAD] * (outputs[0].shape[1] - PROMPT - 5)
        assert tokenizer.decode(outputs[0][2, PROMPT : PROMPT + 5]).endswith(stop)
        if config is IDLE:
            assert torch.equal(outputs[0], model.generate(**arguments))
    for way in WAYS_IN:
        with pytest.raises(ValueError) as error:
            way_in(way, model, IDLE, selector)(**complete(dict(stop_strings=[stop])))
        assert str(error.value) == "generate: tokenizer must be given for stop_strings, got None"


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("where", ["generation_config", "model.generation_config"])
def test_stop_strings_of_a_configuration(where, way):
    model, tokenizer = tiny_model("llama"), make_tokenizer()
    free = model.generate(**complete({}))
    config = GenerationConfig(
        stop_strings=[tokenizer.decode(free[2, PROMPT + 2 : PROMPT + 4])],
        max_new_tokens=10,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    before = model.generation_config
    ids, mask = prompts(True)
    arguments = dict(input_ids=ids[2:], attention_mask=mask[2:], tokenizer=tokenizer)
    if where == "generation_config":
        arguments["generation_config"] = config
    else:
        model.generation_config = config
    try:
        expected = model.generate(**arguments)
        output = way_in(way, model, IDLE, make_selector(model))(**arguments)
        # As in transformers, an argument has the last word, None included.
        if where == "model.generation_config":
            without = way_in(way, model, IDLE, make_selector(model))(**arguments, stop_strings=None)
            assert without.shape[1] > output.shape[1]
    finally:
        model.generation_config = before
    assert expected.shape[1] == PROMPT + 4
    assert torch.equal(output, expected)
    assert config.stop_strings is not None  # the caller's object is not written to
