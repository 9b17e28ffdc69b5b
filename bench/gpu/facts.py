"""What machine this is, as one JSON line: device, clocks, driver, compilers, versions."""

import importlib.metadata
import platform
import shutil
import subprocess

import torch
from measure import put

TOOLS = ("nvcc", "compute-sanitizer", "ncu", "cmake", "ninja", "g++")
PACKAGES = ("transformers", "triton", "flashinfer-python", "peft", "pybind11", "numpy")
QUERY = "name,driver_version,clocks.max.sm,clocks.max.mem,memory.total,mig.mode.current"


def said(*command: str) -> str:
    """The last line a command prints; "" where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return (result.stdout.strip().splitlines() or [""])[-1]


def installed(package: str) -> str:
    """Its version, or ""."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    put(
        "facts.jsonl",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        gpu=said("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"),
        tools={tool: said(tool, "--version") for tool in TOOLS},
        packages={package: installed(package) for package in PACKAGES},
    )
