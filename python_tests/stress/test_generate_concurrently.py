"""Many generations at once: threads, an event loop, a forked process."""

import asyncio
import os
import subprocess
import sys
import threading
from functools import partial

import forked_generation
import pytest
from concurrent_generation import KINDS, check_repeatedly, generate, in_threads
from models import build_model, make_selector, make_tokenizer, prompts, tiny_model, way_in
from transformers import AsyncTextIteratorStreamer

from s2t_ext import S2TConfig

# How long the threads go on after their first round.
SECONDS = float(os.environ.get("S2T_EXT_STRESS_SECONDS", 0))


@pytest.mark.parametrize("names", [["llama"], ["llama", "gemma3", "falcon_h1"]], ids=str)
def test_eight_threads_generate_what_one_does(names):
    """Of every kind at once, on one model and on several: plain generation beside one that turns
    the adapter off, and so on.
    """
    work = []
    for number in range(8):
        kind, name = KINDS[number % len(KINDS)], names[number % len(names)]
        seeds = range(10 * number, 10 * number + 3)
        expected = [generate(kind, name, seed) for seed in seeds]
        work.append(partial(check_repeatedly, kind, name, seeds, expected, SECONDS))
    in_threads(work)


def test_the_first_use_of_a_model_by_many_threads():
    """All of them want to know at once how its candidates can share a step."""
    inputs, config = prompts(True), S2TConfig(trigger="always", warmup_steps=0)
    texts = []

    def run(model, selector):
        generate = way_in("generate", model, config, selector)
        arguments = dict(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=8)
        texts.append(generate(**arguments, do_sample=False).tolist())

    run(build_model("qwen3"), make_selector(build_model("qwen3")))
    new = build_model("qwen3")
    in_threads([partial(run, new, make_selector(build_model("qwen3")))] * 8)
    assert len(texts) == 9 and all(text == texts[0] for text in texts)


@pytest.mark.parametrize("way", ["generate", "custom_generate", "patch"])
def test_an_event_loop_streams_the_text(way):
    """Several requests of one server, each in a thread of its own."""
    model, tokenizer = tiny_model("llama"), make_tokenizer()
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
    selector, requests = make_selector(model), range(4)

    def arguments(request: int) -> dict:
        inputs = prompts(False, seed=request)
        return dict(input_ids=inputs.ids[:1], max_new_tokens=10, do_sample=False)

    async def stream(request: int) -> str:
        streamer = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        call = partial(generate_it, **arguments(request), streamer=streamer)
        thread = threading.Thread(target=call)
        thread.start()
        text = "".join([piece async for piece in streamer])
        await asyncio.to_thread(thread.join)
        return text

    async def all_requests() -> list[str]:
        if way == "patch":  # one model has one patch, put on and taken off here
            return [await stream(request) for request in requests]
        return await asyncio.gather(*map(stream, requests))

    generate_it = way_in(way, model, config, selector, seed=3)
    expected = []
    for request in requests:
        output = generate_it(**arguments(request))
        expected.append(tokenizer.decode(output[0, arguments(request)["input_ids"].shape[1] :]))
    assert asyncio.run(all_requests()) == expected


def forked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "always", forked_generation.__file__, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result


def test_a_forked_process_generates():
    """OpenMP's threads are not copied by a fork, and a child that waits for them never ends; nor
    does one that waits for a lock which an ending thread held.
    """
    result = forked()
    assert result.stdout == "the same\n"
    assert result.stderr.count("RuntimeWarning: generate: this process was forked") == 1


def test_a_process_forked_beside_a_computing_thread_refuses():
    assert forked("beside").stdout == (
        "generate: a process must be forked while no other thread computes (locks they held stay "
        "locked in it: start processes by 'spawn'), got one that was forked beside them\n"
    )
