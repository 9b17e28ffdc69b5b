"""Processes that distil together: `python distill_process.py DATA OUTPUT CONFIG`, with the
configuration as JSON and what `accelerate launch` sets in the environment.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from collecting import make_model

import s2t_ext
from s2t_ext.distillation.data.collection import Collection
from s2t_ext.distillation.options import DistillConfig
from s2t_ext.distillation.train import distill


@contextlib.contextmanager
def processes(
    count: int, data: Path, output: Path, options: dict, **environment: str
) -> Iterator[list[subprocess.Popen]]:
    """Starts them on this machine; kills what is left of them at the end."""
    root = str(Path(s2t_ext.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, __file__, str(data), str(output), json.dumps(options)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, **environment, "RANK": str(r), "LOCAL_RANK": str(r)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def run_processes(count: int, data: Path, output: Path, options: dict, **environment: str) -> None:
    """Runs them to their end; a failure shows what they wrote."""
    with processes(count, data, output, options, **environment) as started:
        errors = [process.communicate(timeout=300)[1] for process in started]
        assert [process.returncode for process in started] == [0] * count, "\n".join(errors)


if __name__ == "__main__":
    data, output, config = sys.argv[1:]
    distill(make_model(1), Collection(data), output, DistillConfig.from_dict(json.loads(config)))
