"""Numbers of the functions that run for long: normalised or refused before anything begins."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

import s2t_ext
from s2t_ext.runs.number_arguments import checked_numbers

FUNCTIONS = [
    *("calibrate", "calibrate_margin", "collect", "collect_answers", "distill", "evaluate"),
    *("frontier", "import_groups", "load_task", "measure_sufficiency"),
]
CONFIGURATIONS = ["DistillConfig", "LossConfig", "S2TConfig"]


def numbers_of(annotations):
    """(name, annotation) of those that are numbers."""
    plain = [(name, str(kind)) for name, kind in annotations]
    return [
        (name, kind) for name, kind in plain if kind.removesuffix(" | None") in ("int", "float")
    ]


def arguments_of(function):
    parameters = inspect.signature(function).parameters.values()
    return numbers_of((p.name, p.annotation) for p in parameters)


CASES = [
    (name, argument, kind)
    for name in FUNCTIONS
    for argument, kind in arguments_of(getattr(s2t_ext, name))
]


def call(name, **given):
    """With nothing else that makes sense: numbers are looked at first."""
    function = getattr(s2t_ext, name)
    needed = {
        p.name: None
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    return function(**{**needed, **given})


@pytest.mark.parametrize(("name", "argument", "kind"), CASES)
def test_what_is_no_number_is_refused_by_name(name, argument, kind):
    wrong = ["0.5", True, float("nan"), [1], np.ones(2), *([] if "None" in kind else [None])]
    for value in [*wrong, *([1.5] if kind.startswith("int") else [])]:
        with pytest.raises(ValueError, match=f"^{name}: {argument} must be a"):
            call(name, **{argument: value})


@pytest.mark.parametrize(
    ("name", "argument"),
    [c[:2] for c in CASES if c[1] in ("max_new_tokens", "batch_size", "rollouts")],
)
def test_counts_begin_at_1(name, argument):
    for value in (0, -1, np.int64(0)):
        with pytest.raises(ValueError, match=f"^{name}: {argument} must be at least 1, got"):
            call(name, **{argument: value})


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_fields_of_a_configuration(name):
    kind = getattr(s2t_ext, name)
    fields = numbers_of((field.name, field.type) for field in dataclasses.fields(kind))
    assert fields
    default = kind()
    for field, annotation in fields:
        value = getattr(default, field)
        if value is not None:
            for same in (
                np.asarray(value)[()],
                torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None),
            ):
                found = getattr(kind(**{field: same}), field)
                assert found == value and type(found) is type(value)
        for wrong in ("1", True, [1], *([] if "None" in annotation else [None])):
            with pytest.raises(ValueError, match=f"^{name}: {field} must be a"):
                kind(**{field: wrong})


def test_any_kind_of_number_becomes_pythons():
    @checked_numbers
    def function(count: "int", share: "float | None" = 0.5, *, name="x", **rest):
        return count, share, name, rest

    for one in (1, np.int8(1), torch.tensor(1), np.array(1)):
        count, share, *_ = function(one, share=np.float32(0.25))
        assert (type(count), count, type(share), share) == (int, 1, float, 0.25)
    assert function(count=2, share=None, name=3, more=4) == (2, None, 3, {"more": 4})
    assert function(1, 1)[1] == 1.0 and type(function(1, 1)[1]) is float
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        function()
