"""Whole generations on a GPU: the reference's tokens, one read of the device per ordinary step, and
replayed graphs. Skipped without one (or failing, with S2T_EXT_FAIL_WITHOUT_CUDA=1); the same code
runs on the CPU in test_generate_exact.py, test_device_reads.py and test_static_tree_step.py.
"""

import copy
import warnings

import pytest
import torch
from architectures import PAD
from models import (
    Prompts,
    assert_equals_reference,
    make_selector,
    prompts,
    tiny_model,
    way_in,
)
from transformers import CompileConfig

from s2t_ext import S2TConfig, Teacher

HALF = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0)
ENDLESS = dict(eos_token_id=None, pad_token_id=PAD, do_sample=False)


def on_gpu(name: str, device: str) -> tuple:
    model = copy.deepcopy(tiny_model(name)).to(device)
    inputs = prompts(True)
    selector = make_selector(tiny_model(name))
    return model, Prompts(inputs.ids.to(device), inputs.mask.to(device)), selector


def generated(model, inputs, selector, config=HALF, **options):
    arguments = dict(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=12)
    on_step = options.pop("on_step", None)
    generate = way_in("generate", model, config, selector, seed=3, on_step=on_step)
    return generate(**arguments, return_dict_in_generate=True, **{**ENDLESS, **options})


@pytest.mark.parametrize("step", ["auto", "expand"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "mistral_window"])
def test_equals_the_reference_on_the_same_device(cuda, name, step):
    model, inputs, selector = on_gpu(name, cuda)
    config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
    output = generated(model, inputs, selector, config)
    assert_equals_reference(
        output.sequences,
        model,
        inputs,
        config=config,
        selector=selector.on(inputs.ids.device),
        new_tokens=12,
        seed=3,
        eos=(),
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral_window"])
def test_bfloat16_takes_the_tree_step_and_agrees_with_the_expanded_one(cuda, name):
    """Rounding differs between the two, so tokens may part; most rows must not, and no candidate
    may see another: that would part nearly all of them.
    """
    model, _, selector = on_gpu(name, cuda)
    model = model.to(torch.bfloat16)
    ids = torch.randint(5, 90, (32, 20), generator=torch.Generator().manual_seed(0)).to(cuda)
    inputs = Prompts(ids, torch.ones_like(ids))
    outputs = {}
    for step in ("tree", "expand"):
        config = S2TConfig(k=4, trigger="random", threshold=0.5, warmup_steps=0, step=step)
        outputs[step] = generated(model, inputs, selector, config)
    assert outputs["tree"].s2t.step_mode == "tree"
    same = (outputs["tree"].sequences == outputs["expand"].sequences).all(1)
    assert same.float().mean() > 0.7


def test_a_static_cache_replays_graphs(cuda):
    """Transformers' default on CUDA: compiled with CUDA graphs, for one token and for K."""
    model, inputs, selector = on_gpu("llama", cuda)
    expected = generated(model, inputs, selector)
    for _ in range(2):
        output = generated(
            model,
            inputs,
            selector,
            cache_implementation="static",
            compile_config=CompileConfig(mode="reduce-overhead"),
        )
        assert output.s2t.step_mode == "tree"
        assert torch.equal(output.sequences, expected.sequences)


def test_waits_for_the_device(cuda):
    """Once in an ordinary step, once more where something is chosen."""
    model, inputs, selector = on_gpu("llama", cuda)
    inputs = Prompts(prompts(False).ids.to(cuda), prompts(False).mask.to(cuda))
    generated(model, inputs, selector)  # what is found out once per model
    chose = []
    config = S2TConfig(k=4, trigger="random", threshold=0.15, warmup_steps=0)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            marks = []

            def on_step(event) -> None:
                marks.append(len(caught))
                chose.append(event.scores is not None)

            generated(model, inputs, selector, config, on_step=on_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reads = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    assert reads == [2 if is_choice else 1 for is_choice in chose[1:]]


def test_with_a_teacher(cuda):
    model, inputs, _ = on_gpu("llama", cuda)
    teacher, _, _ = on_gpu("qwen2", cuda)
    config = S2TConfig(k=4, trigger="kl", threshold=0.1, select="teacher", warmup_steps=0)
    generate = way_in("generate", model, config, teacher=Teacher.from_model(teacher))
    output = generate(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=8, **ENDLESS)
    small = way_in("generate", model.cpu(), config, teacher=Teacher.from_model(teacher.cpu()))
    expected = small(
        input_ids=inputs.ids.cpu(), attention_mask=inputs.mask.cpu(), max_new_tokens=8, **ENDLESS
    )
    assert torch.equal(output.cpu(), expected)
