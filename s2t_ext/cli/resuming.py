"""What an output folder says of the run it holds: read before a model is loaded, so that a command
with other settings is refused at once, and one that goes on says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2t_ext.cli.common import say


def check_output(
    function: str, path: Path, settings: Mapping[str, Any], inside: str | None = None
) -> None:
    """Refuses a folder with a run of other settings; says so where a run goes on.

    The function of the library compares all settings once the models are loaded; here are those
    that the options decide.

    Args:
        function: Named in the message.
        path: The JSON file of the settings; without one the folder is new.
        settings: By their names in that file; None stands for one that it leaves out.
        inside: Key of the object in the file that holds them.

    Raises:
        ValueError: naming the settings that differ.
    """
    if not path.is_file():
        return
    from s2t_ext.runs.files import read_json

    found = read_json(path, function)
    stored = found.get(inside, {}) if inside else found
    differ = sorted(name for name, value in settings.items() if stored.get(name) != value)
    if differ:
        words = ", ".join(_described(name, stored.get(name), settings[name]) for name in differ)
        raise ValueError(
            f"{function}: output must be a new folder or one of the same settings, got one that "
            f"differs in {words}: {path.parent}"
        )
    say(f"{path.parent} holds this run already: going on with it")


def _described(name: str, before: Any, now: Any) -> str:
    """A setting with both its values, unless they are long, such as a list of prompts."""
    return name if isinstance(before, list) else f"{name} ({before}, now {now})"
