"""Ctrl-C and SIGTERM: work that they may not cut in two, and folders that they do not leave behind."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds both signals back until the block ends; only the main thread gets them.

    What they raise is then raised when the block is left, so a caller's own `finally` sees all that the block did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not None:  # None: a handler that is not Python's
                before[number] = signal.signal(number, hold)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that is gone when the block ends, at whatever moment it is interrupted.

    Args:
        parent: Where it is made; None: where the system has such folders.
    """
    with uninterrupted():
        folder = tempfile.TemporaryDirectory(prefix="trt-yolo-", dir=parent)
    try:
        yield Path(folder.name)
    finally:
        with uninterrupted():
            folder.cleanup()


def exit_on_sigterm() -> None:
    """Has SIGTERM end the process like an exception, so that whatever cleans up does; the status is 143."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
