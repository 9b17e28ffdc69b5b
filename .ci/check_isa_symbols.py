"""Fails where an object compiled for a raised instruction set defines what the linker may share.

An inline function or template instance outside of the kernels' own namespace is a weak symbol: of
several copies the linker keeps one, for everybody. If it keeps the AVX-512 copy, the library
crashes on a processor without it. Usage: check_isa_symbols.py BUILD_FOLDER
"""

import subprocess
import sys
from pathlib import Path

RAISED = ("avx2", "avx512")


def main(build: Path) -> int:
    objects = [path for isa in RAISED for path in build.rglob(f"s2t_cpu_{isa}.dir/**/*.o")]
    if not objects:
        print(f"check_isa_symbols: no objects of {', '.join(RAISED)} in {build}")
        return 1
    faults = 0
    for path in sorted(objects):
        listing = subprocess.check_output(["nm", "-C", "--defined-only", path], text=True)
        for line in listing.splitlines():
            _, kind, name = line.split(maxsplit=2)
            # Weak data (v) and unique objects (u) are as bad as weak functions (W), but for what
            # the compiler itself emits to point at the personality routine of exceptions.
            if kind in "WVwvu" and not name.startswith("DW.ref."):
                faults += 1
                print(f"{path.parent.name}/{path.name}: weak symbol {name}")
    print(f"check_isa_symbols: {len(objects)} objects, {faults} weak symbols")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
