"""Prints the README's command of a name: the code block after the line `<!-- command: NAME -->`.

The test run executes what the README tells its readers, so the two cannot drift apart.
"""

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def main(name: str) -> int:
    pattern = rf"<!-- command: {re.escape(name)} -->\s*```(?:bash|sh)\n(.*?)```"
    match = re.search(pattern, README.read_text("utf-8"), re.DOTALL)
    if match is None:
        print(f"{README}: no code block after `<!-- command: {name} -->`", file=sys.stderr)
        return 1
    print(match[1].strip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
