"""The code blocks of the README and the documentation, and what each of them needs."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: A block may follow a comment on a line of its own: `<!-- needs: model -->` where it needs what
#: tests have not (a model, a GPU, a server, a fresh environment), `<!-- command: NAME -->` where
#: `.ci/run` runs it.
BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>needs|command): (?P<what>[\w, ]+) -->\n)?"
    r"^```(?P<language>python|bash)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
KNOWN_NEEDS = {"model", "gpu", "server", "environment"}


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        page: File name, for messages.
        line: Line of its fence.
        language: python or bash.
        needs: What it needs that tests have not; empty if it can run here.
        command: Its name, if `.ci/run` runs it.
    """

    page: str
    line: int
    language: str
    code: str
    needs: str = ""
    command: str = ""


def pages() -> list[Path]:
    """README, contributing guide and documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The Python and shell blocks of a page, in order."""
    text = page.read_text("utf-8")
    found = []
    for match in BLOCK.finditer(text):
        marks = {match["kind"]: match["what"]} if match["kind"] else {}
        needs = marks.get("needs", "")
        unknown = set(needs.replace(",", " ").split()) - KNOWN_NEEDS
        assert not unknown, f"{page.name}: unknown needs {unknown}"
        line = text.count("\n", 0, match.start()) + 1
        found.append(
            Block(
                page.name,
                line,
                match["language"],
                match["code"],
                needs,
                marks.get("command", ""),
            )
        )
    return found


def programs(block: Block, *names: str) -> list[list[str]]:
    """Arguments of each call of a program (`python -m s2t_ext` is two words) in a shell block."""
    import shlex

    calls = []
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for name in names:
            start = name.split()
            for i in range(len(words) - len(start) + 1):
                is_program = words[i : i + len(start)] == start
                if is_program and (i == 0 or "=" in words[i - 1] or words[i - 1] in ("&&", ";")):
                    calls.append(words[i + len(start) :])
    return calls
