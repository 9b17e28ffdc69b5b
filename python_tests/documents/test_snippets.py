"""What the documentation tells its readers to type works as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from document_blocks import ROOT, Block, blocks, pages, programs

from s2t_ext.cli import app

PAGES = {page.name: blocks(page) for page in pages()}
RUNNABLE = {
    name: found
    for name, found in PAGES.items()
    if any(not block.needs and not block.command for block in found)
}


def environment() -> dict[str, str]:
    """Of a program that a page starts: this package, no network, one thread."""
    found = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found["PATH"]])
    return found


def python_program(found: list[Block]) -> str:
    """The page's Python blocks in one program, each at its line."""
    lines: list[str] = []
    for block in found:
        lines += [""] * (block.line - len(lines))
        lines += block.code.splitlines()
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", RUNNABLE)
def test_blocks_run(name, tmp_path):
    """A page's blocks of a language share one session, as a reader's do."""
    here = [block for block in RUNNABLE[name] if not block.needs and not block.command]
    for language in ("bash", "python"):
        chosen = [block for block in here if block.language == language]
        if not chosen:
            continue
        if language == "bash":
            script = "\n".join(block.code for block in chosen)
            call = ["bash", "-euo", "pipefail", "-c", script]
        else:
            (tmp_path / f"{name}.py").write_text(python_program(chosen))
            call = [sys.executable, f"{name}.py"]
        done = subprocess.run(
            call, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{name}, {language}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("name", PAGES)
def test_blocks_that_need_more_are_python_and_known_commands(name):
    group = typer.main.get_command(app)
    for block in PAGES[name]:
        where = f"{name}:{block.line}"
        if block.language == "python":
            compile(block.code, where, "exec")
            continue
        for command, *arguments in programs(block, "python -m s2t_ext", "s2t-ext"):
            if command.startswith("-"):
                continue
            assert command in group.commands, f"{where}: no command {command}"
            options = {
                option
                for parameter in group.commands[command].params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            given = {a.split("=")[0] for a in arguments if a.startswith("--")}
            assert given <= options | {"--help"}, f"{where}: {command} has no {given - options}"


def test_every_link_of_a_page_leads_somewhere():
    for page in pages():
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (page.parent / target).exists(), f"{page.name}: no {target}"


def test_every_path_that_a_page_names_exists():
    folders = "s2t_ext|csrc|bench|python_tests|docs|examples|.ci|.github"
    name = re.compile(rf"`((?:{folders.replace('.', '[.]')})/[\w./@-]*)`")
    for page in [*pages(), ROOT / "csrc" / "README.md", ROOT / "bench" / "README.md"]:
        for path in name.findall(page.read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page.name}: no {path}"


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 1200 and text.count("\n") <= 130
