"""Without vllm the package says in one sentence what is missing; the rest works."""

import subprocess
import sys

CODE = """
import sys
sys.modules["vllm"] = None  # as if it were not installed
import s2t_ext
s2t_ext.S2TConfig()
import s2t_ext.vllm
"""


def test_import():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: s2t_ext.vllm: vllm must be installed (pip install 's2t_ext[vllm]'), got no "
        "such package"
    )
