"""What a generation holds, and for how long: nothing of ours keeps a model, a cache or a step's
tensors alive.
"""

import contextlib
import gc
import weakref

import pytest
import torch
from architectures import ARCHITECTURES, PAD, VOCAB
from models import (
    WAYS_IN,
    add_adapter,
    build_model,
    make_selector,
    make_tokenizer,
    prompts,
    way_in,
)
from tiny_teachers import teacher_model
from transformers import Cache

import s2t_ext
from s2t_ext import S2TConfig, Teacher
from s2t_ext.decoding.record import STACKED_STEPS

KINDS = {
    "never": dict(trigger="never"),
    "tree": dict(trigger="random", threshold=0.5, warmup_steps=0, step="tree"),
    "expand": dict(trigger="random", threshold=0.5, warmup_steps=0, step="expand"),
    "base": dict(trigger="random", threshold=0.5, warmup_steps=0, proposer="base"),
    "teacher": dict(trigger="random", threshold=0.5, warmup_steps=0, select="teacher"),
}


class Stop(Exception):
    """Raised by the tests in the middle of a generation."""


def new_generation(
    kind: str, way: str = "generate", name: str = "llama", vocabulary: int = VOCAB, **options
):
    """A model of its own, and `generate` with it."""
    config = S2TConfig(**KINDS[kind])
    architecture = ARCHITECTURES[name].build()
    architecture.vocab_size = vocabulary
    model = build_model(architecture)
    if kind == "base":
        model = add_adapter(model).get_base_model()
    selector = make_selector(model) if kind in ("tree", "expand", "base") else None
    teacher = (
        Teacher.from_model(teacher_model(vocabulary=vocabulary)) if kind == "teacher" else None
    )
    return model, way_in(way, model, config, selector, teacher=teacher, seed=1, **options)


def arguments(**more) -> dict:
    inputs = prompts(True)
    return dict(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=PAD,
        **more,
    )


class Caches:
    """An `on_step` that finds the caches in use, by weak references; those that other tests have
    left somewhere are none of ours.
    """

    def __init__(self):
        gc.collect()
        self.others = weakref.WeakSet(_caches())
        self.found: list[weakref.ref] = []

    def __call__(self, event):
        if event.step == 5:
            self.found = [weakref.ref(cache) for cache in _caches() if cache not in self.others]

    def alive(self) -> list:
        assert self.found
        return [reference() for reference in self.found if reference() is not None]


def _caches() -> list[Cache]:
    """All caches of the process."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Cache)]


@pytest.fixture
def without_collector():
    """Only what nobody refers to any more is freed, as on a GPU that is nearly full."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_freed_after_a_generation(kind, way):
    model, generate = new_generation(kind, way)
    output = generate(**arguments(return_dict_in_generate=True))
    alive = weakref.ref(model), weakref.ref(output.past_key_values)
    del model, generate, output
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_is_freed_as_soon_as_generate_returns(kind, without_collector):
    """Without waiting for the garbage collector."""
    caches = Caches()
    _, generate = new_generation(kind, on_step=caches)
    generate(**arguments())
    assert caches.alive() == []


@pytest.mark.parametrize("name", ["mamba2", "falcon_h1", "gemma3", "bloom"])
def test_so_is_the_cache_of_other_architectures(name, without_collector):
    caches = Caches()
    _, generate = new_generation("expand", name=name, on_step=caches)
    generate(**arguments())
    assert caches.alive() == []


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_freed_after_a_failure(kind, way):
    """Of the caller's callback, once the exception itself is gone."""

    caches = Caches()

    def stop(event):
        caches(event)
        if event.step == 5:
            raise Stop

    gc.collect()
    model, generate = new_generation(kind, way, on_step=stop)
    with contextlib.suppress(Stop):
        generate(**arguments())
    alive = weakref.ref(model)
    del model, generate
    gc.collect()
    assert alive() is None and caches.alive() == []


def test_a_model_is_freed_after_patch_and_unpatch():
    model = build_model("llama")
    config = S2TConfig(trigger="always", warmup_steps=0)
    s2t_ext.patch(model, config, make_selector(model))
    model.generate(**arguments())
    s2t_ext.unpatch(model)
    patched = build_model("llama")
    s2t_ext.patch(patched, config, make_selector(patched))  # and never unpatched
    alive = weakref.ref(model), weakref.ref(patched)
    del model, patched
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_a_model_is_freed_after_calibration():
    model = build_model("llama")
    s2t_ext.calibrate(
        model, make_tokenizer(), ["one", "two"], rate=0.1, max_new_tokens=12, progress=False
    )
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_model_is_freed_though_its_selector_lives(tmp_path):
    """Saved, loaded for another copy of the model, and used."""
    model = build_model("llama")
    make_selector(model).save_pretrained(tmp_path)
    selector = s2t_ext.Selector.from_pretrained(tmp_path, model)
    config = S2TConfig(trigger="always", warmup_steps=0)
    s2t_ext.generate(model, s2t=config, selector=selector, **arguments())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None and selector.rows.shape[0] == 16


def tensors_alive() -> tuple[int, int]:
    """(how many tensors Python knows, bytes of their storages); sparse ones have no storage."""
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)]
    tensors = [t for t in tensors if t.layout == torch.strided]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return len(tensors), sum(storages.values())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_cache_grows_with_the_steps(kind):
    """No step leaves a tensor of its own behind; what grows is smaller than a row of logits."""
    vocabulary, seen = 8192, {}
    first, last = 10, 10 + 2 * STACKED_STEPS  # as far from the record's last stack

    def measure(event):
        if event.step in (first, last):
            gc.collect()
            seen[event.step] = tensors_alive()

    model, generate = new_generation(kind, vocabulary=vocabulary, on_step=measure)
    generate(**{**arguments(), "max_new_tokens": last + 2})
    (tensors, size), (tensors_later, size_later) = seen[first], seen[last]
    assert tensors_later - tensors < STACKED_STEPS / 2
    assert (size_later - size) / (last - first) < vocabulary * 4
