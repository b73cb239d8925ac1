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
    """Holds Ctrl-C and SIGTERM back until the block ends; does nothing outside the main thread, which alone gets them.

    What they raise is raised when the block is left, so a caller's own `finally` sees all that the block did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    def release() -> None:
        if held:
            signal.raise_signal(held[0])

    with contextlib.ExitStack() as on_exit:  # goes on where a signal comes while handlers are put back
        on_exit.callback(release)
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not None:  # None: a handler that is not Python's
                on_exit.callback(signal.signal, number, before)
                signal.signal(number, hold)
        yield


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
