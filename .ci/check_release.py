"""Fails unless a tag, the package's version, the changelog and the citation agree.

    python .ci/check_release.py v0.2.0

Without a tag: whether the version that the package says it has is described everywhere.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(tag: str | None) -> list[str]:
    """What does not agree, in words."""
    version = re.search(r'"(.+)"', (ROOT / "s2t_ext" / "_version.py").read_text())[1]
    found = []
    if tag is not None and tag != f"v{version}":
        found.append(f"the tag is {tag}, the version {version}")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M):
        found.append(f"CHANGELOG.md has no dated section [{version}]")
    if f"\nversion: {version}\n" not in (ROOT / "CITATION.cff").read_text("utf-8"):
        found.append(f"CITATION.cff does not say {version}")
    if tag is not None:
        if re.search(r"^## \[Unreleased\]\s*\n+[^#\s]", changelog, re.M) or re.search(
            r"^## \[Unreleased\]\s*\n+### ", changelog, re.M
        ):
            found.append("CHANGELOG.md has lines under Unreleased")
        if "example.org" in (ROOT / "pyproject.toml").read_text("utf-8"):
            found.append("pyproject.toml still has placeholder addresses (example.org)")
    return found


if __name__ == "__main__":
    wrong = problems(sys.argv[1] if len(sys.argv) > 1 else None)
    print("\n".join(wrong) or "the release is described everywhere")
    sys.exit(bool(wrong))
