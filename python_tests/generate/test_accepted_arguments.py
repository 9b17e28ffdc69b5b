"""What `generate`, `patch` and `decoding_method` take for a selector, a teacher, options and a
prompt.
"""

import pytest
import torch
from models import build_model, make_selector, make_tokenizer

import s2t_ext
from s2t_ext import S2TConfig, Teacher

OPTIONS = dict(max_new_tokens=8, do_sample=False)
IDS = torch.tensor([[5, 6, 7]])


@pytest.fixture
def model():
    return build_model("llama")


@pytest.fixture
def selector(model):
    return make_selector(model, decoding=S2TConfig(trigger="always", k=4, warmup_steps=0))


def test_a_selector_is_also_its_folder(model, selector, tmp_path):
    selector.save_pretrained(tmp_path)
    expected = s2t_ext.generate(model, IDS, selector=selector, **OPTIONS)
    for path in (tmp_path, str(tmp_path)):
        assert torch.equal(s2t_ext.generate(model, IDS, selector=path, **OPTIONS), expected)
    method = s2t_ext.decoding_method(selector=tmp_path)
    assert torch.equal(model.generate(IDS, custom_generate=method, **OPTIONS), expected)
    patched = s2t_ext.patch(build_model("llama"), selector=tmp_path)
    assert torch.equal(patched.generate(IDS, **OPTIONS), expected)


def test_a_folder_is_read_once_for_a_model(model, selector, tmp_path, monkeypatch):
    selector.save_pretrained(tmp_path)
    first = s2t_ext.generate(model, IDS, selector=tmp_path, **OPTIONS)

    def unexpected(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(s2t_ext.Selector, "from_pretrained", unexpected)
    assert torch.equal(s2t_ext.generate(model, IDS, selector=tmp_path, **OPTIONS), first)
    with pytest.raises(AssertionError, match="read again"):
        s2t_ext.generate(build_model("llama"), IDS, selector=tmp_path, **OPTIONS)


def test_options_are_also_a_dictionary(model, selector):
    options = {"trigger": "random", "threshold": 0.5, "k": 3}
    expected = s2t_ext.generate(
        model, IDS, s2t=S2TConfig(**options), selector=selector, seed=3, **OPTIONS
    )
    assert torch.equal(
        s2t_ext.generate(model, IDS, s2t=options, selector=selector, seed=3, **OPTIONS), expected
    )
    with pytest.raises(ValueError, match="S2TConfig: options must be among .*, got temperature"):
        s2t_ext.generate(model, IDS, s2t={"temperature": 1}, selector=selector, **OPTIONS)


def test_a_teacher_is_also_a_model(model):
    large = build_model("llama", seed=7)
    options = S2TConfig(select="teacher", trigger="always", warmup_steps=0)
    expected = s2t_ext.generate(
        model, IDS, s2t=options, teacher=Teacher.from_model(large), **OPTIONS
    )
    assert torch.equal(
        s2t_ext.generate(model, IDS, s2t=options, teacher=large, **OPTIONS), expected
    )


def test_a_prompt_is_also_what_the_tokenizer_gives(model, selector):
    inputs = make_tokenizer()("Hi", return_tensors="pt")
    expected = s2t_ext.generate(model, inputs["input_ids"], selector=selector, **OPTIONS)
    assert torch.equal(s2t_ext.generate(model, inputs, selector=selector, **OPTIONS), expected)
    assert torch.equal(s2t_ext.generate(model, **inputs, selector=selector, **OPTIONS), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "Hi"}, "inputs must be ids, .* or a tokenizer's output .*, got str"),
        ({"inputs": [[1, 2]]}, "inputs must be ids, .*, got list"),
        (
            {"s2t": "always"},
            "s2t must be a S2TConfig, a dictionary of its options or None, got str",
        ),
        ({"selector": 3}, "selector must be a Selector, its folder or hub repository, .* got int"),
        ({"teacher": "large"}, "teacher must be a Teacher, a causal language model .* got str"),
    ],
)
def test_anything_else_is_refused_by_name(model, options, message):
    with pytest.raises(ValueError, match=f"^generate: {message}"):
        s2t_ext.generate(model, **{"inputs": IDS, **options})
    if "inputs" not in options:
        for name in ("patch", "decoding_method"):
            arguments = (model,) if name == "patch" else ()
            with pytest.raises(ValueError, match=f"^{name}: {message}"):
                getattr(s2t_ext, name)(*arguments, **options)
