"""Docstrings can be parsed: one parameter an entry, and each entry is one of the object's."""

import ast
import inspect
import re

import pytest
from document_blocks import ROOT

import s2t_ext

PACKAGE = ROOT / "s2t_ext"
SECTION = re.compile(r"^(Args|Attributes):\n((?:    .*\n?|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^    (\S[^:\n]*):(?:\s|$)", re.MULTILINE)
#: "what it is. other_name: what that is": a second parameter in the entry of the first.
SECOND = re.compile(r"[.;] ([a-z_]\w*): ")


def documented():
    """(file, node, docstring) of every class and function of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                text = ast.get_docstring(node)
                if text:
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", text


def sections(text):
    """(section, its entries as (name, text)) of a docstring."""
    for title, body in SECTION.findall(text + "\n"):
        starts = list(ENTRY.finditer(body))
        ends = [match.start() for match in starts[1:]] + [len(body)]
        yield (
            title,
            [(m[1], body[m.end() : end]) for m, end in zip(starts, ends, strict=True)],
        )


def test_one_parameter_an_entry():
    wrong = []
    for where, text in documented():
        for title, entries in sections(text):
            for name, rest in entries:
                if "," in name or " " in name.split("(")[0].strip() or SECOND.search(rest):
                    wrong.append(f"{where}, {title}: {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [n for n in s2t_ext.__all__ if callable(getattr(s2t_ext, n))])
def test_the_entries_of_public_functions_are_their_parameters(name):
    found = getattr(s2t_ext, name)
    parameters = inspect.signature(found).parameters
    for title, entries in sections(inspect.getdoc(found) or ""):
        if title == "Args":
            for entry, _ in entries:
                assert entry.lstrip("*") in parameters, f"{name} has no parameter {entry}"
