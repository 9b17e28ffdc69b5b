"""Files of folders and repositories: found, read, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from s2t_ext.runs.processes import this_process
from s2t_ext.runs.shipped import shipped_folder


def read_json(path: Path, reader: str) -> dict[str, Any]:
    """The object in a JSON file; ValueError, in the name of `reader`, if it holds anything else."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or no text at all
        raise ValueError(f"{reader}: {path.name} must be valid JSON, got {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{reader}: {path.name} must hold a JSON object, got {type(content).__name__}"
        )
    return content


def read_text(path: Path, reader: str) -> str:
    """The text of a file that people make: UTF-8, with or without a byte order mark, whatever its
    ends of lines.

    Raises:
        ValueError: in the name of `reader`, if it is no such text.
    """
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{reader}: {path} must be UTF-8 text, got {error}") from error


def locate_file(path_or_repo: str | Path, name: str, reader: str = "load_selector") -> Path:
    """Path of one file of a folder or hub repository.

    Args:
        path_or_repo: The folder, the repository, or a shipped name.
        name: Of the file.
        reader: In whose name errors are raised.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path_or_repo = shipped_folder(path_or_repo, reader) or path_or_repo
    if os.path.isdir(path_or_repo):
        path = Path(path_or_repo) / name
        if path.is_file():
            return path
        raise FileNotFoundError(
            f"{reader}: {name} must be in the checkpoint, got none in {path_or_repo}"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(path_or_repo), name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{reader}: path_or_repo must be a folder or a reachable hub repository with "
            f"{name}, got {path_or_repo}"
        ) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that it is there whole or not at all, even after a power cut, with the mode
    that the umask gives to new files. What is no file, as /dev/stdout or a pipe, is written to.

    A killed process leaves `<name>.process-<its number>.<random>.unfinished` behind, which
    `remove_unfinished` removes.
    """
    data = content.encode() if isinstance(content, str) else content
    if _is_stream(path):
        with path.open("ab") as file:
            file.write(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{path.name}.process-{os.environ.get('RANK', '0')}."
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".unfinished")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp's are for the owner alone
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _is_stream(path: Path) -> bool:
    """Whether a path stands for something other than a file, which one in its place would hide from
    everybody else. Behind /dev/stdout there may be a file, which is still no other's to replace.
    """
    if path.is_dir():
        return False
    places = [os.path.realpath(path.parent) + "/"]
    if path.is_symlink():
        places.append(os.readlink(path))
    is_of_a_process = any(place.startswith("/proc/") for place in places)
    return is_of_a_process or (path.exists() and not path.is_file())


def remove_unfinished(folder: Path) -> None:
    """Removes the unfinished files of a killed run from a folder, except what another of the
    processes that share it may be writing. For whoever goes on with a run: elsewhere, others may be
    writing.
    """
    number, count = this_process()
    for path in folder.glob("*.unfinished"):
        found = re.search(r"\.process-(\d+)\.[^.]*\.unfinished$", path.name)
        writer = int(found[1]) if found else number
        if count == 1 or writer == number or writer >= count:
            path.unlink(missing_ok=True)


def give_usual_modes(folder: str | Path) -> None:
    """Gives files of a folder that only their owner can read, as safetensors writes them, the mode
    that the umask gives to new files.
    """
    for path in Path(folder).glob("*.safetensors"):
        if path.stat().st_mode & 0o777 == 0o600:
            path.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The process's umask. It can only be read by setting it, which other threads would notice, so
    it is read from /proc where there is one.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
