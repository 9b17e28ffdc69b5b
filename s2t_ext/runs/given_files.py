"""Files and texts that a command is given, checked before a model is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from s2t_ext.runs.files import read_text


def read_prompts(path: Path) -> list[str]:
    """Prompts of a file: JSON lines with "prompt" or "question", or plain text lines."""
    return [text for text, _ in read_prompt_records(path)]


def read_prompt_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The prompts of a file, each with the object it stands in; of plain text lines that is empty.
    The file is read once: it may be a pipe.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"--prompts must be a file, got {path}")
    found: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path, "--prompts").split("\n"), 1):
        if not line.strip():
            continue
        if path.suffix != ".jsonl":
            found.append((line, {}))
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {number} must be JSON, got {error}") from error
        text = None
        if isinstance(record, dict):
            text = record.get("prompt", record.get("question"))
        if not isinstance(text, str):
            raise ValueError(f'{path}: line {number} must have "prompt" or "question", got {line}')
        found.append((text, record))
    return found


def check_text(option: str, *texts: str | None) -> None:
    """Raises ValueError for a text of bytes that are not UTF-8: Python keeps those of an argument
    as characters that no tokenizer takes.
    """
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{option} must be UTF-8, got {text!a}") from error


def check_output_file(option: str, path: Path | None) -> None:
    """Raises OSError where a file cannot be written: its text may be the end of a long run."""
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{option} must be a file, got the folder {path}")
    if path.exists() and (path.is_symlink() or not path.is_file()):
        return  # a pipe or a device is written to as it is
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{option} must be in a folder, got {path}: {folder} is a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} must be in a folder that can be written, got {path}")


def home_for_tilde(text: str) -> str:
    """The text with the user's folder in place of a leading `~`, where a shell would put it too;
    none looks behind an `=`, or into a recipe, and a folder named `~` is nobody's wish.
    """
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text
