#!/usr/bin/env python3
"""Fails where a function imports a module of this package: such an import hides a circle. Commands
(`cli/`), which load only what they run, and `__init__.py` may."""

import ast
import subprocess
import sys
from pathlib import Path

ALLOWED_FOLDER = "s2t_ext/cli/"


def local_imports(text: str) -> list[int]:
    """Lines of the imports of s2t_ext, absolute or relative, inside functions."""
    lines = set()
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom):
                names = ["s2t_ext"] if node.level else [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            if any(name.split(".")[0] == "s2t_ext" for name in names):
                lines.add(node.lineno)
    return sorted(lines)


if __name__ == "__main__":
    listed = subprocess.run(
        ["git", "ls-files", "s2t_ext/*.py"], capture_output=True, text=True, check=True
    )
    found = [
        f"{name}:{line}: a function imports a module of ours"
        for name in listed.stdout.split()
        if not name.startswith(ALLOWED_FOLDER) and not name.endswith("__init__.py")
        for line in local_imports(Path(name).read_text())
    ]
    print("\n".join(found) or "imports: none of ours inside a function")
    sys.exit(bool(found))
