"""The program, run in this process, and the folders it works on."""

from typer.testing import CliRunner

from s2t_ext.cli import app

TEMPLATE = "{% for m in messages %}<bos>U:{{ m['content'] }}{% endfor %}A:"


def call(*arguments) -> tuple[str, str]:
    """(stdout, stderr) of a command that succeeds."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def error_of(*arguments) -> str:
    """The one line a command says no in."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.stdout == "" and result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip("\n")


def generate_command(folders, *more):
    return (
        "generate", "--model", folders / "model", "--prompt", "Hi", "--dtype", "float32",
        "--max-new-tokens", 12, *more,
    )  # fmt: skip
