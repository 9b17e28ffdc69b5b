"""Processes made by fork: torch's threads are missing there, and a lock that one of them held at
that moment stays locked for ever.

Such a lock is inside MKL (the table of buffers that every matrix product looks at); a thread holds
it for an instant whenever it takes or returns a buffer, also when it ends. Nobody can ask for it,
but a thread that sleeps does not hold it. So a fork waits until all other threads sleep, for a
while; if one still works then, the child refuses to generate, where it might wait for ever.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import warnings
from pathlib import Path

import torch

#: Seconds a fork waits for threads that work. Those of a pool that ends need far less.
_PATIENCE = 1.0
_PAUSE = 0.002

_process = os.getpid()
#: Whether another thread is at work as this process forks.
_working = False
#: Whether one was, in the parent or its parents, when this process was forked.
_unsafe = False


def prepare_for_forks() -> None:
    """Called before a process generates; in one that was forked, makes generating safe.

    OpenMP's threads exist in the parent alone, and the first parallel region of the child would
    wait for them for ever: torch is set to one thread, as torch's own data loaders do in their
    workers. Warns once.

    Raises:
        RuntimeError: in a process that was forked while other threads were computing.
    """
    global _process
    _watch_forks()
    if os.getpid() == _process:
        return
    if _unsafe:
        raise RuntimeError(
            "generate: a process must be forked while no other thread computes (locks they held "
            "stay locked in it: start processes by 'spawn'), got one that was forked beside them"
        )
    _process = os.getpid()
    if torch.get_num_threads() == 1:
        return
    torch.set_num_threads(1)
    warnings.warn(
        "generate: this process was forked, which does not copy torch's threads: torch is set to "
        "one thread here (start processes by 'spawn' to keep them)",
        RuntimeWarning,
        stacklevel=2,
    )


@functools.cache
def _watch_forks() -> None:
    """From the first generation on."""
    os.register_at_fork(before=_wait_for_threads, after_in_child=_remember)


def _wait_for_threads() -> None:
    global _working
    deadline = time.monotonic() + _PATIENCE
    while (working := _another_thread_works()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    _working = working


def _remember() -> None:
    global _unsafe
    _unsafe = _unsafe or _working


def _another_thread_works() -> bool:
    """Whether a thread of this process but the calling one is doing anything but sleeping."""
    own = threading.get_native_id()
    for task in Path("/proc/self/task").iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):  # it has ended
            continue
        if int(task.name) != own and state not in "SZX":  # sleeping, or dead
            return True
    return False
