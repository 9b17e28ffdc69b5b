"""A process made by fork, in which torch's threads are missing."""

from __future__ import annotations

import os
import warnings

import torch

_process = os.getpid()


def keep_to_one_thread_after_fork() -> None:
    """Sets torch to one thread in a process that was forked from the one that loaded s2t_ext.

    OpenMP's threads exist in the parent alone, and the first parallel region of the child would
    wait for them for ever; torch's own data loaders do the same in their workers. Warns once.
    """
    global _process
    if os.getpid() == _process:
        return
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
