"""Bad input to a generation: a message that says why and what to use instead, and nothing lost.

The operators' own messages are in test_op_errors.py, those of selectors on disk in
test_checkpoint.py, of options in test_config.py.
"""

import pytest
import torch
from architectures import EOS, PAD, PROMPT
from models import WAYS_IN, build_model, make_selector, make_tokenizer, prompts, tiny_model, way_in
from refusals import ALWAYS, NEVER, refusal
from transformers import GenerationConfig, StoppingCriteria, TextStreamer

MODES = (
    "(Select-to-Think decodes greedily or by sampling; use model.generate for this mode, on a "
    "model that is not patched)"
)
SPECULATION = (
    "generate: assistant_model, prompt_lookup_num_tokens, assistant_early_exit and use_mtp must be "
    f"unset {MODES}, got assisted_generation"
)


@pytest.mark.parametrize("way", ["generate", "custom_generate"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_beams=2), f"generate: num_beams must be 1 {MODES}, got beam_search"),
        (
            dict(num_beams=2, do_sample=True),
            f"generate: num_beams must be 1 {MODES}, got beam_sample",
        ),
        (
            dict(num_beams=2, num_beam_groups=2, diversity_penalty=0.5),
            f"generate: num_beam_groups must be 1 {MODES}, got group_beam_search",
        ),
        (
            dict(force_words_ids=[[5]]),
            f"generate: constraints must be None {MODES}, got constrained_beam_search",
        ),
        (
            dict(penalty_alpha=0.6, top_k=4),
            f"generate: penalty_alpha must be None {MODES}, got contrastive_search",
        ),
        (
            dict(dola_layers="high"),
            f"generate: dola_layers must be None {MODES}, got dola_generation",
        ),
        (dict(prompt_lookup_num_tokens=3), SPECULATION),
        (dict(assistant_early_exit=1), SPECULATION),
        (dict(use_mtp=True), SPECULATION),
        (
            dict(assistant_model=object()),
            "generate: assistant_model must be None (Select-to-Think does not speculate), got a "
            "model",
        ),
    ],
)  # fmt: skip
def test_modes_of_generate(arguments, message, way):
    if arguments.get("assistant_model") is not None:
        arguments = dict(assistant_model=tiny_model("llama"))
    for config in (ALWAYS, NEVER):
        assert refusal(way, config, **arguments) == message


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(synced_gpus=True),
            "generate: synced_gpus must be False (fully sharded models are not supported: gather "
            "the model first), got True",
        ),
        (
            dict(guidance_scale=1.5),
            "generate: guidance_scale must be 1 (its processor runs the model itself, once per "
            "step, and would not see the candidates), got 1.5",
        ),
        (
            dict(generation_config=GenerationConfig(cache_implementation="paged")),
            "generate: cache_implementation must not be 'paged' (continuous batching bypasses "
            "custom decoding), got 'paged'",
        ),
    ],
)
def test_options_of_generate(arguments, message, way):
    assert refusal(way, NEVER, **arguments) == message


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_student_spread_over_several_accelerators(way):
    """As `device_map="auto"` leaves it; the attribute is all there is of it without GPUs."""
    model = build_model("llama")
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 1, "lm_head": "cuda:1"}
    assert refusal(way, model=model) == (
        "generate: model must be on one device where its candidates are scored (load it with "
        "device_map={'': 0}, or set trigger='never' or select='teacher'), got cuda:0, cuda:1"
    )
    model.hf_device_map = {"model": 0, "lm_head": "cpu"}  # run by one of them
    ids = prompts(False).ids
    output = way_in(way, model, ALWAYS, make_selector(model))(input_ids=ids, max_new_tokens=3)
    assert output.shape == (2, PROMPT + 3)


def test_modes_of_a_patched_model():
    """What our loop serves and nothing else, as without a patch; unpatched, the model has its own
    modes back.
    """
    one = dict(input_ids=prompts(False).ids[:1])
    for arguments in (
        dict(num_beams=2),
        dict(assistant_model=tiny_model("llama"), **one),
        dict(prompt_lookup_num_tokens=3, **one),
        dict(cache_implementation="paged"),
        dict(token_healing=True),
    ):
        assert refusal("patch", **arguments) == refusal("generate", **arguments)
    model = tiny_model("llama")
    assert model.generate(prompts(False).ids, num_beams=2, max_new_tokens=3).shape == (
        2,
        PROMPT + 3,
    )


def test_what_generate_acts_on_before_it_reaches_us():
    assert refusal("generate", cache_implementation="paged") == (
        "generate: cache_implementation must not be 'paged' (continuous batching bypasses custom "
        "decoding), got 'paged'"
    )
    healing = (
        "generate: token_healing must be False (heal the prompt first: "
        "model.heal_tokens(input_ids, tokenizer)), got True"
    )
    assert refusal("generate", token_healing=True, tokenizer=make_tokenizer()) == healing
    config = GenerationConfig(token_healing=True, max_new_tokens=3)
    assert refusal("generate", generation_config=config) == healing
    assert refusal("generate", custom_generate="somebody/something") == (
        "generate: custom_generate must be None (s2t_ext.generate is itself one), got a value"
    )


@pytest.mark.parametrize("way", WAYS_IN)
def test_transformers_own_refusals_come_through(way):
    assert "model_kwargs` are not used by the model: ['max_new_token']" in refusal(
        way, max_new_token=3
    )
    assert "do not support `num_return_sequences`" in refusal(way, num_return_sequences=2)
    assert refusal(way, streamer=TextStreamer(make_tokenizer())) == (
        "TextStreamer only supports batch size 1"
    )
    assert "`attention_mask` passed to `generate` must be 2D" in refusal(
        way, attention_mask=torch.ones(2, 1, PROMPT, PROMPT)
    )


class AnswersInAColumn(StoppingCriteria):
    """[batch, 1] instead of [batch], as after a comparison that kept its dimension."""

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1:] == input_ids[:, 3:4]


@pytest.mark.parametrize("config", [NEVER, ALWAYS])
def test_criteria_that_answer_in_a_column_are_refused_but_for_a_single_row(config):
    """Together with transformers' own they would make a square of answers."""
    model, inputs = tiny_model("llama"), prompts(False)
    selector = None if config is NEVER else make_selector(model)
    options = dict(stopping_criteria=[AnswersInAColumn()], max_new_tokens=5, do_sample=False)
    generate = way_in("generate", model, config, selector)
    with pytest.raises(ValueError) as error:
        generate(input_ids=inputs.ids, **options, eos_token_id=None, pad_token_id=PAD)
    assert str(error.value) == (
        "generate: stopping_criteria must return one value, or one for each of the 2 rows, got "
        "shape [2, 2] from all of them"
    )
    single = generate(input_ids=inputs.ids[:1], **options, pad_token_id=PAD, eos_token_id=EOS)
    assert PROMPT < single.shape[1] <= PROMPT + 5
