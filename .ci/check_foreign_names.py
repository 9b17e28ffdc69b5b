"""Fails where code outside s2t_ext/hf reaches below the public names of other packages.

Outside hf/: no import below transformers' top level, and no underscore of a foreign object. Inside
hf/: each private name needs a test named after it in python_tests/hf/test_private_names.py, and
there are at most MAX_PRIVATE_NAMES of them.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, TESTS = ROOT / "s2t_ext", ROOT / "python_tests" / "hf" / "test_private_names.py"
MAX_PRIVATE_NAMES = 8
#: Public in spite of their underscore: namedtuple's methods and python's own.
PUBLIC = {"_make", "_replace", "_asdict", "_fields"}
#: torch gives the order of an operator's arguments under no other name.
ALLOWED = {("ops/_bind.py", "_schema")}
READERS = {"getattr", "hasattr", "setattr", "delattr", "private"}


def is_private(name: str) -> bool:
    """Whether a name starts with one underscore."""
    own = name.startswith(("__", "_s2t")) or name in PUBLIC
    return name.startswith("_") and name.isidentifier() and not own


def own_names(trees: list[ast.Module]) -> set[str]:
    """Underscored names the package gives to its own objects."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ClassDef):  # its methods and fields
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    names.add(inner.name)
                elif isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    names.add(inner.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
    return names


def private_names(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, name) of every private attribute that is read, written, or named in a string; negative
    lines where `private(...)` reads it, which is foreign whatever the package calls its own.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in READERS and len(node.args) > 1:
                sign = -1 if node.func.id == "private" else 1
                found.append((sign * node.lineno, getattr(node.args[1], "value", None)))
        elif isinstance(node, ast.Assign):  # the name of an attribute, kept in a constant
            found.append((node.lineno, getattr(node.value, "value", None)))
    return [(line, name) for line, name in found if isinstance(name, str) and is_private(name)]


def deep_imports(tree: ast.Module) -> list[tuple[int, str]]:
    """(line, module) of imports below transformers' top level."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        found += [(node.lineno, name) for name in modules if name.startswith("transformers.")]
    return found


def main() -> int:
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    own, faults, used = own_names(list(trees.values())), [], set()
    for path, tree in trees.items():
        inside = path.is_relative_to(PACKAGE / "hf")
        private = private_names(tree)
        foreign = [
            (line, name)
            for line, name in private
            if (line < 0 or name not in own)
            and (str(path.relative_to(PACKAGE)), name) not in ALLOWED
        ]
        used |= {name for _, name in foreign if inside}
        below = [] if inside else deep_imports(tree) + foreign
        faults += [f"{path.relative_to(ROOT)}:{abs(n)}: {name} belongs in hf/" for n, name in below]
    tests = TESTS.read_text() if TESTS.exists() else ""
    untested = [name for name in sorted(used) if f"def test{name}(" not in tests]
    faults += [f"{TESTS.relative_to(ROOT)}: no test{name}" for name in untested]
    if len(used) > MAX_PRIVATE_NAMES:
        faults.append(f"s2t_ext/hf: at most {MAX_PRIVATE_NAMES} private names, got {len(used)}")
    print(*faults, f"private names in hf/: {', '.join(sorted(used))}", sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
