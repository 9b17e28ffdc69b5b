"""Ctrl-C that waits until a step is finished, so that what was done can be saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_WAITING = b"\nstopping after this step; once more stops at once\n"


@contextmanager
def interrupt_after_step(enabled: bool = True) -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only takes note; the second raises KeyboardInterrupt as ever.

    Args:
        enabled: False leaves Ctrl-C as it is; so do threads other than the main one, which get no
            signals.

    Yields:
        Returns whether Ctrl-C was pressed: the caller saves, and raises KeyboardInterrupt.
    """
    pressed = False

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)
        os.write(sys.stderr.fileno(), _WAITING)

    before = signal.getsignal(signal.SIGINT)
    is_usual = before is signal.default_int_handler
    if not (enabled and is_usual and threading.current_thread() is threading.main_thread()):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
