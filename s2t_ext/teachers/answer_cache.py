"""Answers of completions servers on disk, where each survives an interruption."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

CACHE_NAME = "completions.sqlite"

#: Who is called, in the messages of errors.
FROM_SERVER = "Teacher.from_server"


class AnswerCache:
    """Request -> answer on disk. Every entry is its own transaction: a killed process loses none.

    The key is the model's name and the request, not the server's address: a server that comes back
    elsewhere finds its answers. Use one folder per model if two servers share a name.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / CACHE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, timeout=60.0)
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)"
                )
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{FROM_SERVER}: cache_dir must hold a cache or nothing, got {path}: {error}"
            ) from error

    def get(self, key: str) -> Any:
        """The answer, or None."""
        with self._lock:
            query = "SELECT answer FROM answers WHERE key = ?"
            row = self._connection.execute(query, (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, answer: Any) -> None:
        """Stores an answer durably."""
        try:
            with self._lock, self._connection:
                self._connection.execute(
                    "INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer))
                )
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from error

    def __len__(self) -> int:
        with self._lock:
            count: int = self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        return count

    def _unwritable(self, error: sqlite3.OperationalError) -> OSError:
        """No rights, no space, or the lock of another process."""
        return OSError(f"{FROM_SERVER}: cache_dir must be writable, got {self._path}: {error}")
