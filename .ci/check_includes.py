"""Fails where a C++ file includes what its room may not: the table of csrc/README.md.

torch: csrc/bindings only, and there only the stable ABI. pybind11: csrc/bindings/module.cpp only.
A room's own headers: core <- cpu, cuda <- bindings. The emulator, csrc/simt, is known to its own
binding only: what a release is built from neither includes nor names it.
"""

import re
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
STABLE = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/")
ROOMS = {  # room: rooms whose headers it may include
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "bindings": {"core", "cpu", "cuda", "bindings"},
    "simt": {"core", "simt", "cuda"},
    "bindings/simt": {"core", "cuda", "simt", "bindings"},
}


def room_of(file: Path) -> str:
    folder = file.parent.as_posix()
    return folder if folder in ROOMS else file.parts[0]


def objection(file: Path, header: str) -> str | None:
    """Why `file` (relative to csrc) may not include `header`, or None."""
    room, top = room_of(file), header.split("/")[0]
    if top in ("torch", "ATen", "c10"):
        if not room.startswith("bindings"):
            return "torch stays in csrc/bindings"
        if not header.startswith(STABLE):
            return "not a header of torch's stable ABI"
    if top == "pybind11" and str(file) != "bindings/module.cpp":
        return "pybind11 stays in csrc/bindings/module.cpp"
    if top in ROOMS and room in ROOMS and top not in ROOMS[room]:
        return f"{room} may include {', '.join(sorted(ROOMS[room]))} only"
    return None


def main() -> int:
    faults = 0
    for path in sorted(CSRC.rglob("*")):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            where = path.relative_to(CSRC)
            code = line.split("//")[0].lower()
            if "simt" in code and "simt" not in where.parts:
                faults += 1
                print(f"{path}:{number}: names the emulator")
            match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            reason = objection(where, match[1]) if match else None
            if reason:
                faults += 1
                print(f"{path}:{number}: {match[1]}: {reason}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
