"""The emulator that runs CUDA kernels on a CPU: every fault is reported, every control passes."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SIMT = Path(__file__).resolve().parents[2] / "csrc" / "simt"
COMMON = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
RUNTIME = [*COMMON, "-O2"]
# -fsanitize=thread when compiling only: its callbacks are the emulator's own (csrc/simt/README.md).
KERNEL = [
    *COMMON,
    *["-x", "c++", "-O1", "-gdwarf-4", "-fno-strict-aliasing", "-ffp-contract=off"],
    *["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0"],
    *["--param", "tsan-distinguish-volatile=1"],
]

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("addr2line") is None or not SIMT.exists(),
    reason="the emulator's self-test needs g++, addr2line and the source tree",
)


def build(folder: Path, extra: list[str]) -> Path:
    runtime = [*sorted(SIMT.glob("*.cpp")), SIMT / "tests" / "selftest.cpp"]
    kernels = [
        SIMT / "tests" / name for name in ("memory_faults.cu", "lane_faults.cu", "controls.cu")
    ]
    define = f'-DSIMT_TEST_FOLDER="{SIMT / "tests"}"'

    def compile_one(source: Path) -> str:
        flags = KERNEL if source.suffix == ".cu" else RUNTIME
        target = folder / (source.stem + ".o")
        subprocess.run(["g++", *flags, *extra, define, "-c", source, "-o", target], check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, runtime + kernels))
    subprocess.run(["g++", *objects, "-o", folder / "selftest", "-ldl"], check=True)
    return folder / "selftest"


@pytest.mark.parametrize(
    "extra", [[], ["-DSIMT_UCONTEXT"]], ids=["native_switch", "ucontext_switch"]
)
def test_every_fault_is_reported_with_its_line_and_every_control_passes(tmp_path, extra):
    done = subprocess.run([build(tmp_path, extra)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 controls and 38 faults, 10 schedules each: 0 failures" in done.stdout
