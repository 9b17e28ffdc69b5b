"""What comes out of a generation besides tokens: streams, scores, logits."""

import queue
import threading

import pytest
import torch
import transformers
from architectures import PAD, PROMPT
from models import WAYS_IN, Collects, make_selector, make_tokenizer, prompts, tiny_model, way_in
from transformers import (
    TextIteratorStreamer,
    TextStreamer,
)

import s2t_ext
from s2t_ext import S2TConfig

IDLE = S2TConfig(trigger="entropy", threshold=1e3)
ALWAYS = S2TConfig(k=4, trigger="always", warmup_steps=0)
# Every row runs to the end.
ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)


# ---- streamers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [IDLE, ALWAYS], ids=["idle", "always"])
@pytest.mark.parametrize("way", WAYS_IN)
def test_streamer(way, config):
    """Gets the prompt once, then every token once it is decided, then the end, once."""
    model, inputs = tiny_model("llama"), prompts(True)
    streamer = Collects()
    generate = way_in(way, model, config, make_selector(model))
    output = generate(
        input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=5, streamer=streamer
    )
    assert streamer.ended == 1
    assert torch.equal(streamer.pieces[0], inputs.ids)
    assert torch.equal(torch.stack(streamer.pieces[1:], dim=1), output[:, PROMPT:])


@pytest.mark.parametrize("where", ["decoding_method", "both"])
def test_streamer_of_the_decoding_method(where):
    model, inputs = tiny_model("llama"), prompts(False)
    streamer = Collects()
    method = s2t_ext.decoding_method(ALWAYS, make_selector(model), streamer=streamer)
    options = {"streamer": streamer} if where == "both" else {}
    output = model.generate(inputs.ids, custom_generate=method, max_new_tokens=4, **options)
    assert torch.equal(streamer.pieces[0], inputs.ids) and len(streamer.pieces) == 5
    assert torch.equal(torch.stack(streamer.pieces[1:], dim=1), output[:, PROMPT:])


@pytest.mark.parametrize("way", WAYS_IN)
def test_text_streamers(way, capsys):
    """To the terminal, and to a reader in another thread."""
    model, tokenizer, ids = tiny_model("llama"), make_tokenizer(), prompts(False).ids[:1]
    generate = way_in(way, model, ALWAYS, make_selector(model))
    output = generate(input_ids=ids, max_new_tokens=8, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out == tokenizer.decode(output[0]) + "\n"
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(
        target=generate, kwargs=dict(input_ids=ids, max_new_tokens=8, streamer=streamer)
    )
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(output[0, PROMPT:])
    with pytest.raises(queue.Empty):
        streamer.text_queue.get_nowait()


# ---- scores and logits ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "mamba2"])
@pytest.mark.parametrize("way", WAYS_IN)
def test_scores_and_logits_are_transformers_own(way, name):
    model, inputs = tiny_model(name), prompts(True)
    arguments = dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=5,
        do_sample=False,
        repetition_penalty=1.3,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    expected = model.generate(**arguments)
    output = way_in(way, model, IDLE, make_selector(model))(**arguments)
    assert isinstance(output, transformers.generation.GenerateDecoderOnlyOutput)
    assert torch.equal(output.sequences, expected.sequences)
    for name in ("scores", "logits"):
        ours, theirs = getattr(output, name), getattr(expected, name)
        assert isinstance(ours, tuple) and len(ours) == len(theirs) == 5
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert output.attentions is None and output.hidden_states is None


@pytest.mark.parametrize("step", ["tree", "expand"])
def test_scores_and_logits_after_choices(step):
    """Of the states the chosen tokens lead to."""
    model, ids = tiny_model("llama"), prompts(False).ids
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    output = way_in("generate", model, config, make_selector(model), seed=3)(
        input_ids=ids,
        max_new_tokens=6,
        suppress_tokens=[7],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **ENDLESS,
    )
    assert output.s2t.changed_tokens > 0
    with torch.no_grad():
        logits = model(input_ids=output.sequences).logits[:, PROMPT - 1 : -1]
    torch.testing.assert_close(torch.stack(output.logits, dim=1), logits, atol=1e-4, rtol=0)
    logits[..., 7] = -torch.inf
    torch.testing.assert_close(torch.stack(output.scores, dim=1), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("warper", [dict(top_k=5), dict(typical_p=0.5), dict(temperature=0.5)])
def test_scores_of_a_sample_are_after_the_warpers(warper):
    model, inputs = tiny_model("llama"), prompts(False)
    options = dict(do_sample=True, top_k=0, **{k: v for k, v in warper.items() if k != "top_k"})
    options.update(warper)
    arguments = dict(
        input_ids=inputs.ids,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    expected = model.generate(**arguments).scores[0]
    actual = way_in("generate", model, IDLE, make_selector(model))(**arguments).scores[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
