"""Files that a page names exist."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "s2t_ext|csrc|python_tests|bench|docs|examples"
NAMED = re.compile(rf"`((?:{FOLDERS})/[\w./-]+\.\w+)`")


def _pages() -> list[Path]:
    """Of the checkout; an unpacked source distribution has no list of its files."""
    if (ROOT / ".git").exists():
        names = subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True)
        return [ROOT / name for name in names.splitlines()]
    return [p for folder in FOLDERS.split("|") for p in (ROOT / folder).rglob("*.md")]


def test_paths_named_in_pages():
    pages = _pages()
    named = {(page, name) for page in pages for name in NAMED.findall(page.read_text())}
    assert len(named) > 20
    missing = [f"{page.relative_to(ROOT)}: {n}" for page, n in named if not (ROOT / n).exists()]
    assert not missing
