"""What `s2t_ext` exports: enough to write down the type of everything that it takes and returns."""

import inspect
import typing

import pytest
import transformers

import s2t_ext

PUBLIC = {name: getattr(s2t_ext, name) for name in s2t_ext.__all__}
#: The operators' own types have a public module of their own.
KNOWN = [*PUBLIC.values(), *(getattr(s2t_ext.ops, name) for name in s2t_ext.ops.__all__)]


def functions_of(value):
    """(name, function) of a public function, or of a class and what it shows."""
    if inspect.isfunction(value):
        yield "", value
    if not inspect.isclass(value):
        return
    yield "", value  # its fields
    for name, member in vars(value).items():
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if isinstance(member, property):
            member = member.fget
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            yield name, member


def types_in(annotation):
    """All types that an annotation is composed of."""
    if isinstance(annotation, (list, tuple)):
        for part in annotation:
            yield from types_in(part)
        return
    if annotation is typing.Any or inspect.isclass(annotation):
        yield typing.get_origin(annotation) or annotation
    yield from types_in(typing.get_args(annotation))


def annotated(value):
    """(function's name, argument's name, type) of everything in a value's signatures."""
    names = {**vars(transformers), **PUBLIC}  # imported for type checkers only, here and there
    for name, function in functions_of(value):
        for argument, annotation in typing.get_type_hints(function, localns=names).items():
            if argument.startswith("_"):
                continue
            for kind in types_in(annotation):
                yield name, argument, kind


@pytest.mark.parametrize("name", [n for n in s2t_ext.__all__ if not inspect.ismodule(PUBLIC[n])])
def test_every_type_in_a_public_signature_is_public(name):
    for function, argument, kind in annotated(PUBLIC[name]):
        where = f"{name}.{function}({argument})"
        if getattr(kind, "__module__", "").split(".")[0] == "s2t_ext":
            assert any(kind is known for known in KNOWN), f"{where}: {kind} is not public"
        if argument in ("teacher", "selector"):
            assert kind is not typing.Any, f"{where} says nothing"


def test_the_closure_sees_what_signatures_are_made_of():
    """The test above would pass for everything if no type were found."""
    found = {kind for _, _, kind in annotated(s2t_ext.evaluate)}
    assert {s2t_ext.Policy, s2t_ext.Problem, s2t_ext.Grader, s2t_ext.Teacher} <= found


def test_every_name_is_listed_and_documented():
    assert dir(s2t_ext) == s2t_ext.__all__ == sorted(set(s2t_ext.__all__))
    for name, value in PUBLIC.items():
        if name != "__version__":
            assert value.__doc__, name
    with pytest.raises(AttributeError, match="module 's2t_ext' has no attribute 'nothing'"):
        _ = s2t_ext.nothing
