"""SIGKILL at random moments loses at most the last record or checkpoint, and changes no result."""

import os
import subprocess
import sys

import pytest
import random_kills

SCRIPT = random_kills.__file__


@pytest.mark.parametrize(
    "what", ["collect", "two", "evaluate", "sufficiency", "lora", "rows", "full"]
)
def test_killed_at_random_moments_it_resumes_to_the_same_files(tmp_path, what):
    """Several times; S2T_EXT_KILLS sets how often."""
    command = [sys.executable, SCRIPT, str(tmp_path), os.environ.get("S2T_EXT_KILLS", "4"), what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
