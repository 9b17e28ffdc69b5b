"""Models that the caller has compiled: hooks of this package are run all the same."""

import threading

import pytest
import torch
from models import build_model, make_selector, prompts, tiny_model
from tiny_teachers import run_with_teacher, teacher_model
from transformers import CompileConfig

import s2t_ext
from s2t_ext import S2TConfig, Selector
from s2t_ext.hf.hooks import hooks_are_run, is_compiled

ALWAYS = dict(k=4, trigger="always", warmup_steps=0)


def whole(model):
    """As transformers' documentation compiles a model for static caches."""
    model.forward = torch.compile(model.forward, fullgraph=True, backend="eager")


def in_place(model):
    model.compile(fullgraph=True, backend="eager")


@pytest.fixture(autouse=True)
def no_code_of_other_models():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("compiles", [whole, in_place])
@pytest.mark.parametrize("first", [False, True], ids=["at once", "after a plain generation"])
def test_choices_equal_those_of_the_same_model(compiles, first):
    plain, compiled = tiny_model("llama"), build_model("llama")
    compiles(compiled)
    assert is_compiled(compiled) and not is_compiled(plain)
    rows = make_selector(plain)
    weight = torch.randn(32, generator=torch.Generator().manual_seed(1))
    learned = make_selector(plain, trigger_head=(weight / 5, 0.0))
    inputs = prompts(True)
    options = dict(input_ids=inputs.ids, attention_mask=inputs.mask, max_new_tokens=6)
    if first:
        compiled.generate(**options)
    for config, selector in (
        (S2TConfig(**ALWAYS), rows),
        (S2TConfig(**ALWAYS, step="expand"), rows),
        (S2TConfig(**{**ALWAYS, "trigger": "head"}, threshold=0.5), learned),
        (S2TConfig(**ALWAYS), Selector(rows.rows, layer=1)),
    ):
        expected, actual = (
            s2t_ext.generate(model, s2t=config, selector=selector, **options)
            for model in (plain, compiled)
        )
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("compiles", [whole, in_place])
def test_a_compiled_teacher(compiles):
    config = S2TConfig(**{**ALWAYS, "trigger": "random"}, threshold=0.4, select="teacher")
    plain, compiled = teacher_model(), teacher_model()
    compiles(compiled)
    expected, actual = (
        run_with_teacher(tiny_model("llama"), teacher, prompts(True), config).sequences
        for teacher in (plain, compiled)
    )
    assert torch.equal(actual, expected)


def test_what_transformers_compiles_is_not_the_callers():
    """Its compiled call lies beside the model's own, and is used on static caches alone."""
    model = build_model("llama")
    before = set(vars(model))
    model.get_compiled_call(CompileConfig(backend="eager", mode=None))
    assert any(callable(vars(model)[name]) for name in set(vars(model)) - before)
    assert not is_compiled(model)


def test_threads_leave_the_compiler_as_it_was():
    """Whichever of two overlapping blocks ends first."""
    module = torch.nn.Linear(2, 2)
    module.compile(backend="eager")
    compiled = torch.compile(lambda x: torch.compiler.is_compiling(), backend="eager")
    inside, ends = threading.Event(), threading.Event()

    def other():
        with hooks_are_run(module):
            inside.set()
            ends.wait(30)

    thread = threading.Thread(target=other)
    with hooks_are_run(module):
        thread.start()
        assert inside.wait(30)
    assert not compiled(torch.ones(1))
    ends.set()
    thread.join()
    assert compiled(torch.ones(1))
