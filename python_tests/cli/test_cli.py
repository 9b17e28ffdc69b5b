"""The program itself: its help, and as a process of its own."""

import subprocess
import sys

from architectures import EOS, PROMPT
from command_line import generate_command


def test_help_answers_without_loading_a_model_library():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from s2t_ext.cli import app\n"
        "for words in ([], ['generate'], ['calibrate'], ['import-checkpoint']):\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage' in result.output\n"
        "assert 'transformers' not in sys.modules and 'peft' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_module_is_the_program(folders):
    """In a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "s2t_ext", *map(str, generate_command(folders))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 5 and "step: none]" in result.stderr
    assert EOS < PROMPT
