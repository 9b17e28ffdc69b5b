"""The examples run as they stand, on the models that ship with the package."""

import os
import subprocess
import sys

import pytest
from document_blocks import ROOT

EXAMPLES = ROOT / "examples"
#: Script -> what its output must hold.
SAYS = {
    "generate": "instead of",
    "with_teacher": "so the answer is 52",
    "adapt": "agreement with the teacher in",
    "evaluate": "s2t-local against greedy",
    "serve": "--trust-remote-code",
}


def environment(folder):
    """Of an example: no network, one thread, temporary files in `folder`."""
    return dict(
        os.environ,
        HF_HUB_OFFLINE="1",
        HF_MODULES_CACHE=str(folder),
        OMP_NUM_THREADS="1",
        PYTHONPATH=str(ROOT),
        TMPDIR=str(folder),
    )


def test_every_script_is_tried_and_short():
    scripts = {path.stem: path.read_text("utf-8") for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == set(SAYS)
    assert all(text.count("\n") <= 60 for text in scripts.values())
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in listed for path in EXAMPLES.glob("[!R]*.*"))


@pytest.mark.parametrize("name", SAYS)
def test_a_script_runs(name, tmp_path):
    if name == "evaluate":
        pytest.importorskip("math_verify", reason="grading needs s2t_ext[eval]")
    arguments = [str(tmp_path / "adapted")] if name == "adapt" else []
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="notebooks need s2t_ext[test]")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need s2t_ext[test]")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EXAMPLES / "select_to_think.ipynb", as_version=4)
    kept = [cell.get("outputs") for cell in notebook.cells]
    assert any(kept)  # readers see results without running it
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    text = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()))
    assert "4 choices, 1 changed" in text and "63  probability" in text
