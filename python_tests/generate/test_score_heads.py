"""Score heads with a hidden layer, on the states of any decoder layer."""

import copy

import pytest
import torch
from architectures import ARCHITECTURES
from greedy import check, run
from models import make_selector, prompts, tiny_model

from s2t_ext import S2TConfig, Selector
from s2t_ext.hf.layer_trace import decoder_layer, tracing_layer
from s2t_ext.selectors.parts import Projection

HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)


def deep_selector(model, width: int = 24, layer: int | None = 1, seed: int = 3) -> Selector:
    """Random weights; scores of different candidates differ in their second digit."""
    plain = make_selector(model)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    size = plain.hidden_size
    projection = Projection(
        1 + 0.1 * normal(size), 0.1 * normal(size), normal(width, size) / size**0.5, normal(width)
    )
    return Selector(normal(16, width) / 2, projection=projection, layer=layer)


#: Gemma 3n's layers put out several streams.
READABLE = [name for name in ARCHITECTURES if name != "gemma3n"]


@pytest.mark.parametrize("name", READABLE)
def test_choices_equal_the_reference(name):
    """Tree, ragged and expanded forwards hand on the states of a middle layer."""
    model = tiny_model(name)
    selector = deep_selector(model)
    record = check(model, prompts(True), HALF, selector, ARCHITECTURES[name].new_tokens, seed=3)
    assert record.step_mode == ARCHITECTURES[name].step_mode and record.triggers > 0


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("width", [0, 24])
@pytest.mark.parametrize("step", ["tree", "expand"])
def test_forms_of_the_head(step, width, layer):
    model = tiny_model("llama")
    selector = deep_selector(model, width, layer) if width else make_selector(model, layer=layer)
    config = S2TConfig(k=4, trigger="always", warmup_steps=0, step=step)
    check(model, prompts(True), config, selector, seed=3)


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_a_static_cache_makes_the_same_choices(cache):
    model, inputs = tiny_model("llama"), prompts(True)
    selector = deep_selector(model)
    expected = run(model, inputs, HALF, selector, seed=3).sequences
    output = run(model, inputs, HALF, selector, seed=3, cache_implementation=cache)
    assert torch.equal(output.sequences, expected)


@pytest.mark.parametrize("name", READABLE)
@torch.no_grad()
def test_a_layer_puts_out_what_transformers_calls_its_hidden_state(name):
    model = tiny_model(name)
    ids = prompts(False).ids
    with tracing_layer(decoder_layer(model, 1)) as trace:
        states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    at = 0 if name == "mamba2" else 1  # it leaves out the embeddings
    assert torch.equal(trace.hidden, states[at])


def test_layers_that_put_out_several_streams_are_refused():
    model = tiny_model("gemma3n")
    with pytest.raises(ValueError, match=r"put out \[batch, length, D\] where a selector reads"):
        run(model, prompts(False), HALF, deep_selector(model), seed=3)


def test_a_layer_there_is_not():
    model = tiny_model("llama")
    count = model.config.num_hidden_layers
    for number in (0, count):
        with pytest.raises(ValueError, match=f"from 1 to {count - 1} of the model's {count}, got"):
            decoder_layer(model, number)
    with pytest.raises(ValueError, match="must read a layer from 1"):
        run(model, prompts(False), HALF, deep_selector(model, layer=count))


def test_it_is_stored_whole(tmp_path):
    model = tiny_model("llama")
    selector = deep_selector(model)
    selector.save_pretrained(tmp_path)
    found = Selector.from_pretrained(tmp_path, model)
    assert found.layer == 1 and found.hidden_size == model.config.hidden_size
    states = torch.randn(5, found.hidden_size)
    assert torch.equal(found.score(states), selector.score(states))
    expected = run(model, prompts(True), HALF, selector, seed=3).sequences
    assert torch.equal(run(model, prompts(True), HALF, found, seed=3).sequences, expected)


def test_half_the_size_where_nothing_is_lost(tmp_path):
    """A head whose numbers float16 holds is stored in it, and read as it was."""
    selector = deep_selector(tiny_model("llama"))
    sizes = []
    for folder in ("single", "half"):
        path = selector.save_pretrained(tmp_path / folder) / "s2t_head.safetensors"
        found = Selector.from_pretrained(tmp_path / folder)
        for name, tensor in selector.projection.tensors().items():
            assert found.projection.tensors()[name].dtype == torch.float32
            assert torch.equal(found.projection.tensors()[name], tensor)
        sizes.append(path.stat().st_size)
        halves = [t.half().float() for t in vars(selector.projection).values()]
        selector.projection = Projection(*halves)
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", torch.zeros(23, 64), r"projection.weight must have shape \[24, D\]"),
        ("norm_bias", torch.zeros(3), r"projection.norm_bias must have shape"),
        ("bias", torch.full((24,), float("nan")), "projection.bias must be finite"),
    ],
)
def test_projections_it_refuses(name, value, message):
    selector = deep_selector(tiny_model("llama"))
    broken = copy.copy(selector.projection)
    object.__setattr__(broken, name, value)
    with pytest.raises(ValueError, match=message):
        Selector(selector.rows, projection=broken)


def test_a_projection_that_lacks_a_part_is_refused():
    tensors = deep_selector(tiny_model("llama")).projection.tensors()
    del tensors["projection_bias"]
    with pytest.raises(ValueError, match="projection must be whole, got none of bias"):
        Projection.from_tensors(tensors)
