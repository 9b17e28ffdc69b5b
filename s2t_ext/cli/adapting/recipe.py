"""Recipes: YAML files with the options of `adapt`, and of the commands that it runs.

model: STUDENT            # an option of several commands: for all that have it
teacher: TEACHER
collect:                  # options of one command, named as on the command line
  temperature: 0.7
evaluate:
  policy: [greedy, s2t-local]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2t_ext.runs.given_files import home_for_tilde

#: The commands that `adapt` runs, in their order; each may have a section of a recipe.
STAGES = ("collect", "distill", "calibrate", "evaluate")


def read_recipe(path: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(options for all commands, options of each command) of a recipe; empty without a path.

    Raises:
        FileNotFoundError: if there is no such file. ValueError: if it is no recipe.
    """
    sections: dict[str, dict[str, Any]] = {stage: {} for stage in STAGES}
    if path is None:
        return {}, sections
    if not path.is_file():
        raise FileNotFoundError(f"--config must be a file, got {path}")
    import yaml

    from s2t_ext.runs.files import read_text

    try:
        content = _at_home(yaml.safe_load(read_text(path, "--config")))
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ValueError(f"--config: {path} must be YAML, got {where}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config: {path} must hold names and values, got {content!r}")
    shared = {}
    for name, value in content.items():
        if name in STAGES:
            if not isinstance(value, dict):
                raise ValueError(f"--config: {name} must hold names and values, got {value!r}")
            sections[name] = _by_name(value)
        else:
            shared[_plain(name)] = value
    return shared, sections


def option_names(command: Any) -> dict[str, Any]:
    """Option -> parameter of a command; options are named as on the command line, with `_`."""
    return {_plain(p.opts[0]): p for p in command.params if p.param_type_name == "option"}


def check_names(command: Any, values: Mapping[str, Any], allowed: set[str], where: str) -> None:
    """Raises ValueError for names that are no options of a command, or that it may not be given.

    Args:
        command: Whose options they should be.
        values: By the options' names.
        allowed: Which of them a recipe may give.
        where: What the message calls them.
    """
    wrong = sorted(set(values) - allowed)
    if wrong:
        taken = "set by adapt" if wrong[0] in option_names(command) else "no option"
        raise ValueError(
            f"--config: {where} must be of {', '.join(sorted(allowed))}, got {wrong[0]} ({taken})"
        )


def arguments(command: Any, values: Mapping[str, Any]) -> list[str]:
    """The command line that gives a command these options; None leaves one out.

    Args:
        command: One that has them all.
        values: By the options' names; a list gives an option several times.
    """
    found: list[str] = []
    for name, value in values.items():
        parameter = option_names(command)[name]
        if isinstance(value, dict):
            raise ValueError(f"--config: {name} must be a value or a list, got {value}")
        if parameter.is_flag:
            if not isinstance(value, bool | None):
                raise ValueError(f"--config: {name} must be true or false, got {value!r}")
            if value or (value is False and parameter.secondary_opts):
                found.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, list) else [value]:
            found += [] if one is None else [f"{parameter.opts[0]}={one}"]
    return found


def _at_home(value: Any) -> Any:
    """The value with the user's folder for `~` at the beginning of every text in it."""
    if isinstance(value, dict):
        return {name: _at_home(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    return home_for_tilde(value) if isinstance(value, str) else value


def _by_name(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {_plain(name): value for name, value in values.items()}


def _plain(name: Any) -> str:
    return str(name).lstrip("-").replace("-", "_")
