"""The reference of the command line, from the commands themselves."""

import enum
import typing
from pathlib import Path

import typer.main

from s2t_ext.cli import app

PROGRAM = "python -m s2t_ext"


def write_command_reference(path: Path) -> None:
    """Writes the page, unless it is up to date already (else Sphinx would read it anew)."""
    page = command_reference()
    if not path.exists() or path.read_text("utf-8") != page:
        path.write_text(page, "utf-8")


def command_reference() -> str:
    """Every command with its arguments and options, as Markdown."""
    group = typer.main.get_command(app)
    types = {}
    for registered in app.registered_commands:
        if registered.hidden:
            continue
        name = registered.name or registered.callback.__name__.replace("_", "-")
        types[name] = typing.get_type_hints(registered.callback)
    parts = [
        "# Command line\n",
        f"`{PROGRAM} COMMAND --help`, or `s2t-ext COMMAND --help`, prints the same.\n",
    ]
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        parts.append(f"## {name}\n\n{command.help}\n")
        shown = [p for p in command.params if p.name != "help"]
        positional = [p.name.upper() for p in shown if p.param_type_name == "argument"]
        usage = " ".join([PROGRAM, name, *positional, "[OPTIONS]"])
        parts.append(f"```text\n{usage}\n```\n")
        rows = [_row(p, types.get(name, {}).get(p.name)) for p in shown]
        if rows:
            parts.append("| | type | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(parameter, annotation) -> str:
    """One line of the table: names, type, default, help."""
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    elif default is None or default == () or callable(default):
        shown = ""
    else:
        shown = f"`{getattr(default, 'value', default)}`"
    text = " ".join((parameter.help or "").split()).replace("|", "\\|").replace("<", "\\<")
    return f"| {names} | {_type_name(annotation)} | {shown} | {text} |"


def _type_name(annotation) -> str:
    """The choices of an enumeration, or the type's name; of `X | None` and lists, that of X."""
    inner = [part for part in typing.get_args(annotation) if part is not type(None)]
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if inner:
        repeated = " (may be repeated)" if typing.get_origin(annotation) is list else ""
        return _type_name(inner[0]) + repeated
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{choice.value}`" for choice in annotation)
    names = {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", ""))
