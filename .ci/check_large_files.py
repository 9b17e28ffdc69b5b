"""Fails where a file, or the benchmarks as a whole, are too large for a repository.

Training data, adapters and answers of more than a study belong in a release or on the hub.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300 << 10
#: The demo's models ship with the package.
ALLOWED = {"s2t_ext/demo/assets/student/model.safetensors": 400 << 10}
ALLOWED |= {"s2t_ext/demo/assets/teacher/model.safetensors": 2 << 20}
#: A selector that ships.
ALLOWED |= {
    "s2t_ext/selectors/shipped/qwen2.5-coder-0.5b-word-problems/adapter_model.safetensors": 3 << 19
}
FOLDERS = {"bench/": 7 << 18}


def main() -> int:
    """Prints what is too large; the exit status."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    sizes = {name: (ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()}
    wrong = [
        f"{name}: {size >> 10} KiB, at most {ALLOWED.get(name, LIMIT) >> 10}"
        for name, size in sizes.items()
        if size > ALLOWED.get(name, LIMIT)
    ]
    for folder, limit in FOLDERS.items():
        total = sum(size for name, size in sizes.items() if name.startswith(folder))
        if total > limit:
            wrong.append(f"{folder}: {total >> 10} KiB in all, at most {limit >> 10}")
    print("\n".join(wrong) or f"{len(sizes)} files, none too large")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
