#!/usr/bin/env python3
"""Fails where the tree outgrows its rules: a file of Python over 300 lines, a function over 60 (its
docstring not counted, nor the options that a command declares in its signature), a folder with more
than 16 Python files (of commands 24, a file each), more than 8 at the package's root.
"""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

FILE_LINES, FUNCTION_LINES, FOLDER_FILES = 300, 60, 16
#: Folders where another number holds: the package's face, and flat collections of scripts.
FOLDERS = {"s2t_ext": 8, "s2t_ext/cli": 24, "bench": 32, "python_tests/support": 32}


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, is_command: bool) -> int:
    """Lines of a function from `def` to its end, or of a command those of its body; without its
    docstring.
    """
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    own = first.end_lineno - first.lineno + 1 if is_text else 0
    begin = first.lineno if is_command else node.lineno
    return node.end_lineno - begin + 1 - own


def faults(files: list[str]) -> list[str]:
    """What breaks a rule, a line each."""
    found = []
    for name in files:
        text = Path(name).read_text()
        if (lines := len(text.splitlines())) > FILE_LINES:
            found.append(f"{name}: {lines} lines, at most {FILE_LINES}")
        is_command = name.startswith("s2t_ext/cli/")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (lines := function_lines(node, is_command)) > FUNCTION_LINES:
                    found.append(f"{name}: {node.name} has {lines} lines, at most {FUNCTION_LINES}")
    for folder, count in Counter(str(Path(name).parent) for name in files).items():
        if count > (most := FOLDERS.get(folder, FOLDER_FILES)):
            found.append(f"{folder}: {count} Python files, at most {most}")
    return found


if __name__ == "__main__":
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True)
    found = faults(listed.stdout.split())
    print("\n".join(found) or "sizes: all within their limits")
    sys.exit(bool(found))
