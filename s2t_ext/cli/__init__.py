"""`python -m s2t_ext`: one file per command, registered here.

A command's file imports at its top only what its options need; torch models, transformers and the
like are imported inside the command, so that `--help` answers at once.
"""

import typer

from s2t_ext.cli.calibrate import calibrate
from s2t_ext.cli.collect import collect
from s2t_ext.cli.demo import demo
from s2t_ext.cli.distill import distill
from s2t_ext.cli.evaluate import evaluate
from s2t_ext.cli.export import export
from s2t_ext.cli.generate import generate
from s2t_ext.cli.import_checkpoint import import_checkpoint
from s2t_ext.cli.import_groups import import_groups
from s2t_ext.cli.info import info
from s2t_ext.cli.sufficiency import sufficiency
from s2t_ext.cli.trace import trace

app = typer.Typer(
    name="s2t_ext",
    help="Select-to-Think decoding: a small language model re-ranks its own candidates.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # a local may be a whole model
)
app.command()(info)
app.command()(generate)
app.command()(trace)
app.command()(calibrate)
app.command()(demo)
app.command()(collect)
app.command()(distill)
app.command()(export)
app.command()(sufficiency)
app.command()(evaluate)
app.command("import-checkpoint")(import_checkpoint)
app.command("import-groups")(import_groups)


def main() -> None:
    """Entry point of the `s2t-ext` script."""
    app(prog_name="s2t_ext")
