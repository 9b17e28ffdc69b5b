"""Teachers on the command line: a model folder, a shipped adapter, or a server's address."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2t_ext.cli.common import check_path, load_model, merge_adapter

if TYPE_CHECKING:
    from s2t_ext.teachers.base import Teacher

TEACHER_HELP = (
    "Model folder or hub repository, an adapter that ships (s2t_ext/NAME), or the address of a "
    "completions server (http://...)."
)
#: Seconds that a server has for saying that it is there.
PING_SECONDS = 10.0


def is_server(teacher: str) -> bool:
    """Whether this is an address, not a path or repository."""
    return teacher.lower().startswith(("http://", "https://"))


def check_teacher(
    teacher: str,
    model_name: str | None,
    cache_dir: Path | None,
    model: str,
    option: str = "--teacher",
) -> None:
    """Says no before a model is loaded: a server that is not there, options that do not fit, the
    student as its own teacher.

    Args:
        teacher: A path, a repository or an address.
        model_name: The model's name at a server.
        cache_dir: Folder that keeps a server's answers.
        model: The student's path or repository.
        option: That names it, for messages.
    """
    if is_server(teacher):
        if model_name is None:
            raise ValueError("--teacher-model-name must be given for a server, got none")
        _ping(teacher, option)
        return
    if model_name is not None or cache_dir is not None:
        raise ValueError(
            "--teacher-model-name and --teacher-cache-dir must be left out for a model, got "
            f"{option} {teacher}"
        )
    check_path(option, teacher)
    _shipped_adapter(teacher, option)
    if teacher == model or (
        Path(teacher).exists() and Path(model).exists() and Path(teacher).samefile(model)
    ):
        raise ValueError(f"{option} must be another model than the student, got {teacher}")


def _ping(url: str, option: str) -> None:
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/models", timeout=PING_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers; not every server lists its models
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"{option} must be a server that answers, got {url}: {reason}") from error


def _shipped_adapter(teacher: str, option: str = "--teacher") -> Path | None:
    """The folder of an adapter that ships; None for any other teacher."""
    from s2t_ext.runs.shipped import shipped_folder

    folder = shipped_folder(teacher)
    if folder is not None and not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{option} must be a model or an adapter, got the selector {teacher}")
    return folder


def load_teacher(
    teacher: str,
    model_name: str | None,
    cache_dir: Path | None,
    tokenizer: Any,
    dtype: str,
    student: str,
) -> Teacher:
    """The teacher a command's options ask for.

    Args:
        teacher: A path, a repository, the name of an adapter that ships, or an address.
        model_name: The model's name at a server.
        cache_dir: Folder that keeps a server's answers.
        tokenizer: The student's; a server's is taken to be the same.
        dtype: Of a local model's weights.
        student: The student's path or repository; an adapter that ships is merged into a copy.
    """
    from s2t_ext.teachers import Teacher

    if is_server(teacher):
        return Teacher.from_server(teacher, str(model_name), tokenizer, cache_dir=cache_dir)
    folder = _shipped_adapter(teacher)
    if folder is not None:
        from s2t_ext.selectors.adapter import attach_adapter

        copy, _ = load_model(student, dtype)
        return Teacher.from_model(
            merge_adapter(attach_adapter(folder, copy, "--teacher")), tokenizer
        )
    return Teacher.from_model(*load_model(teacher, dtype, option="--teacher"))
