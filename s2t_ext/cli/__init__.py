"""`python -m s2t_ext`: one file per command, registered here.

A command's file imports at its top only what its options need; torch models, transformers and the
like are imported inside the command, so that `--help`, and a no to wrong arguments, come at once.
"""

from typing import Annotated

import typer

from s2t_ext._version import __version__
from s2t_ext.cli.adapt import adapt
from s2t_ext.cli.calibrate import calibrate
from s2t_ext.cli.chat import chat
from s2t_ext.cli.collect import collect
from s2t_ext.cli.common import set_verbosity
from s2t_ext.cli.demo import demo
from s2t_ext.cli.distill import distill
from s2t_ext.cli.evaluate import evaluate
from s2t_ext.cli.export import export
from s2t_ext.cli.frontier import frontier
from s2t_ext.cli.generate import generate
from s2t_ext.cli.help import Command, Group
from s2t_ext.cli.import_checkpoint import import_checkpoint
from s2t_ext.cli.import_groups import import_groups
from s2t_ext.cli.info import info
from s2t_ext.cli.sufficiency import sufficiency
from s2t_ext.cli.trace import trace

PROGRAM = "s2t-ext"


app = typer.Typer(
    name=PROGRAM,
    cls=Group,
    rich_markup_mode=None,  # its boxes leave 18 columns of 80 for the words
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # a local may be a whole model
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also print what helps to find a fault.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print results and errors alone: no notes, no bars.")
    ] = False,
) -> None:
    """Select-to-Think decoding: a small language model re-ranks its own candidates."""
    set_verbosity(verbose, quiet)


_USE, _MAKE, _MEASURE = "Decode", "Make a selector", "Measure"
for command, panel in (
    (info, _USE),
    (demo, _USE),
    (generate, _USE),
    (chat, _USE),
    (trace, _USE),
    (adapt, _MAKE),
    (collect, _MAKE),
    (distill, _MAKE),
    (calibrate, _MAKE),
    (export, _MAKE),
    (import_checkpoint, _MAKE),
    (import_groups, _MAKE),
    (evaluate, _MEASURE),
    (frontier, _MEASURE),
):
    app.command(cls=Command, rich_help_panel=panel)(command)
app.command("measure-sufficiency", cls=Command, rich_help_panel=_MEASURE)(sufficiency)
app.command("sufficiency", cls=Command, hidden=True)(sufficiency)


def main() -> None:
    """Entry point of the `s2t-ext` script."""
    app(prog_name=PROGRAM)
