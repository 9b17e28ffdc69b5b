"""Teachers on the command line: a model folder, or a server's address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2t_ext.cli.common import load_model

if TYPE_CHECKING:
    from s2t_ext.teachers.base import Teacher

TEACHER_HELP = (
    "Model folder or hub repository, or the address of a completions server (http://...)."
)


def load_teacher(
    teacher: str, name: str | None, cache: Path | None, tokenizer: Any, dtype: str
) -> Teacher:
    """The teacher a command's options ask for.

    Args:
        teacher: A path, a repository or an address.
        name: The model's name at a server.
        cache: Folder that keeps a server's answers.
        tokenizer: The student's; a server's is taken to be the same.
    """
    from s2t_ext.teachers.base import Teacher

    if teacher.startswith(("http://", "https://")):
        if name is None:
            raise ValueError("--teacher-name must be given for a server, got none")
        return Teacher.from_server(teacher, name, tokenizer, cache_dir=cache)
    if name is not None or cache is not None:
        raise ValueError(
            "--teacher-name and --teacher-cache must be left out for a model, got --teacher "
            f"{teacher}"
        )
    return Teacher.from_model(*load_model(teacher, dtype))
