"""Generations of every kind, for threads that run them at the same time."""

import functools
import threading
import time
from collections.abc import Callable

import torch
from architectures import PAD
from models import add_adapter, build_model, make_selector, prompts
from tiny_teachers import teacher_model

import s2t_ext
from s2t_ext import S2TConfig, Teacher

KINDS = ("plain", "sampled", "local", "base", "teacher")


@functools.cache
def shared_teacher() -> Teacher:
    return Teacher.from_model(teacher_model())


@functools.cache
def adapted_model(name: str):
    """A model with an adapter, for all threads."""
    return add_adapter(build_model(name)).get_base_model()


@functools.cache
def shared_selector(name: str) -> s2t_ext.Selector:
    """Made before the threads start: it is fitted with hooks on the model."""
    return make_selector(adapted_model(name))


def generate(kind: str, name: str, seed: int) -> list[list[int]]:
    """The tokens of one generation, a function of its arguments."""
    model = adapted_model(name)
    inputs = prompts(True, seed=seed)
    arguments = dict(attention_mask=inputs.mask, max_new_tokens=10, pad_token_id=PAD)
    if kind == "plain":
        return model.generate(inputs.ids, do_sample=False, **arguments).tolist()
    options = dict(trigger="random", threshold=0.5, warmup_steps=0, k=4)
    more = {}
    if kind == "base":
        options["proposer"] = "base"
    if kind == "teacher":
        options["select"], more["teacher"] = "teacher", shared_teacher()
    else:
        more["selector"] = shared_selector(name)
    config = S2TConfig(**options)
    arguments["do_sample"] = kind == "sampled"
    return s2t_ext.generate(model, inputs.ids, s2t=config, seed=seed, **more, **arguments).tolist()


def in_threads(work: list[Callable[[], None]]) -> None:
    """Runs all at the same time; raises what the first of them raised."""
    errors: list[BaseException] = []

    def run(one: Callable[[], None]) -> None:
        torch.set_num_threads(1)
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def check_repeatedly(kind: str, name: str, seeds: range, expected: list, seconds: float) -> None:
    """Every seed at least once, then on for a time: the text is the expected one each time."""
    end = time.monotonic() + seconds
    while True:
        for seed, tokens in zip(seeds, expected, strict=True):
            assert generate(kind, name, seed) == tokens, (kind, name, seed)
        if time.monotonic() >= end:
            return
