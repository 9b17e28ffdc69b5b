"""Every environment variable of this project has its prefix and a line in the documentation."""

import re

import pytest
from document_blocks import ROOT

FOLDERS = ("s2t_ext", "csrc", "_build", "bench", "python_tests", ".ci")
READ = re.compile(
    r"""(?:environ(?:\.get)?[(\[]|environ\.setdefault\(|getenv\()\s*['"](?P<name>[A-Z][A-Z0-9_]+)"""
)
FILES = [ROOT / "setup.py"] + [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"}
]
#: Where programs and environments lie, and the options of other libraries.
FOREIGN = re.compile(
    r"PATH|PYTHONPATH|VIRTUAL_ENV|CONDA_PREFIX|VLLM_\w+|(?:HF|TRANSFORMERS|TRITON)_\w+|SIMT_VERBOSE"
)
OURS = re.compile(r"(?<![\w-])S2T_EXT_[A-Z][A-Z0-9_]*")


def names_read() -> dict[str, str]:
    """The environment variables that the code reads, with one file that reads each."""
    return {
        match["name"]: str(path.relative_to(ROOT))
        for path in FILES
        for match in READ.finditer(path.read_text("utf-8"))
    }


def test_the_search_finds_what_is_known_to_be_read():
    assert {"S2T_EXT_FORCE_CPU_ISA", "S2T_EXT_CUDA", "RANK", "MAX_JOBS"} <= set(names_read())


@pytest.mark.parametrize("name", sorted(n for n in names_read() if not FOREIGN.fullmatch(n)))
def test_a_variable_that_is_read_is_documented(name):
    assert f"`{name}`" in (ROOT / "docs" / "environment.md").read_text("utf-8"), names_read()[name]


def test_our_variables_have_one_prefix():
    wrong = {n: f for n, f in names_read().items() if n.startswith("S2T") and not OURS.fullmatch(n)}
    assert not wrong


def test_the_documentation_names_no_variable_that_nothing_mentions():
    documented = set(OURS.findall((ROOT / "docs" / "environment.md").read_text("utf-8")))
    mentioned = {name for path in FILES for name in OURS.findall(path.read_text("utf-8"))}
    assert documented - mentioned == set()
