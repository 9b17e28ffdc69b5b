"""Everything worth knowing of the CUDA side, in one command of at most eight minutes.

    python bench/gpu_day.py --output RUN                    on a machine with a GPU
    python bench/gpu_day.py --output RUN --dry-run          every script on the CPU, tiny shapes

Needs no network: torch, a CUDA compiler of its major version, pybind11, cmake and ninja must be
installed; wheels of what else is missing (transformers, ...) may lie in --wheels FOLDER. The
package is built from this checkout into RUN/site, so what is installed stays as it is.

Each stage is a process group with a limit of its own: a hang or an error of the device in one does
not take the others along. Stages that matter most come first. RUN gets `stages.jsonl`, a log per
stage, the lines of `bench/gpu/*.py`, and `table.md`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "bench" / "gpu"
#: Seconds for all stages together.
BUDGET = 460.0
#: On a CPU no device is lent for a time: only what hangs is ended.
DRY_LIMIT = 1200.0


@dataclass
class Stage:
    """One process: its command, its limit in seconds, and whether the rest needs it."""

    name: str
    command: list[str]
    limit: float
    environment: dict[str, str] = field(default_factory=dict)
    needed: bool = False


def script(name: str, *arguments: str) -> list[str]:
    """A command that runs one of `bench/gpu`."""
    return [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments]


def dry_stages() -> list[Stage]:
    """What a CPU can run of it, with the package that is installed."""
    cpu = ("--device", "cpu")
    return [
        Stage("facts", script("facts"), DRY_LIMIT, needed=True),
        Stage("bits", script("bits", *cpu, "--small"), DRY_LIMIT),
        Stage("kernels", script("kernels", *cpu), DRY_LIMIT),
        Stage("attention", script("attention", *cpu), DRY_LIMIT),
        Stage("decode", script("decode", *cpu), DRY_LIMIT),
    ]


def gpu_stages(site: Path, wheels: Path | None) -> list[Stage]:
    """All of it, most important first."""
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(site)]
    build = {
        "S2T_EXT_CUDA": "1",
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0"),
        "MAX_JOBS": str(os.cpu_count() or 1),
    }
    stages = [Stage("facts", script("facts"), 40)]
    if wheels is not None:
        found = sorted(str(path) for path in wheels.glob("*.whl"))
        stages.append(Stage("wheels", [*pip, "--upgrade", *found], 40, needed=True))
    build_command = [*pip, "--no-build-isolation", "-v", str(ROOT)]
    stages.append(Stage("build", build_command, 150, build, needed=True))
    options = ("-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"))
    pytest = [sys.executable, "-m", "pytest", *options]
    tests = ROOT / "python_tests"
    stages += [
        Stage("bits", script("bits"), 60),
        Stage("test_kernels", [*pytest, str(tests / "ops" / "test_cuda_kernels.py")], 75),
        Stage("kernels", script("kernels"), 90),
        Stage("attention", script("attention"), 30),
        Stage("decode", script("decode"), 110),
        Stage("test_generate", [*pytest, str(tests / "generate" / "test_generate_cuda.py")], 90),
    ]
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        whole = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # the allocator would hide a stray access
        stages.append(Stage(tool, [*command, *script("bits", "--small")], 45, whole))
    return stages


def run_stage(stage: Stage, output: Path, environment: dict[str, str], seconds: float) -> int | str:
    """Its exit status, or why there is none."""
    if shutil.which(stage.command[0]) is None:
        return f"no {stage.command[0]} on PATH"
    with (output / f"{stage.name}.log").open("w") as log:
        process = subprocess.Popen(
            stage.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=output,  # not the checkout: its s2t_ext has no libraries
            env={**os.environ, **environment, **stage.environment},
            start_new_session=True,
        )
        try:
            return process.wait(min(stage.limit, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "timeout"


def run(stages: list[Stage], output: Path, environment: dict[str, str], budget: float) -> bool:
    """All stages in turn; True if each ended with 0."""
    begin, good = time.monotonic(), True
    for stage in stages:
        left = budget - (time.monotonic() - begin)
        start = time.monotonic()
        status = "no time left" if left < 5 else run_stage(stage, output, environment, left)
        log = output / f"{stage.name}.log"
        tail = log.read_text(errors="replace")[-600:] if log.exists() and status != 0 else ""
        row = {"stage": stage.name, "status": status, "seconds": round(time.monotonic() - start, 1)}
        with (output / "stages.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**row, "tail": tail}) + "\n")
        print(f"{stage.name}: {status} after {row['seconds']} s", flush=True)
        good &= status == 0
        if stage.needed and status != 0:
            print(f"{tail}\ngpu_day: stage {stage.name} must pass for the others to run")
            break
    return good


def main() -> int:
    """0 if every stage passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install into the run")
    parser.add_argument(
        "--seconds", type=float, help=f"for all stages together; default: {BUDGET:g} on a GPU"
    )
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, tiny shapes")
    options = parser.parse_args()
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    environment = {"S2T_EXT_GPU_DAY_OUTPUT": str(output), "HF_HUB_OFFLINE": "1"}
    if options.dry_run:
        stages = dry_stages()
    else:
        stages = gpu_stages(output / "site", options.wheels)
        path = [str(output / "site"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
        environment |= {"S2T_EXT_REQUIRE_NATIVE": "1", "S2T_EXT_FAIL_WITHOUT_CUDA": "1"}
    budget = options.seconds or (DRY_LIMIT if options.dry_run else BUDGET)
    good = run(stages, output, environment, budget)
    subprocess.run(script("table", str(output)), check=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
