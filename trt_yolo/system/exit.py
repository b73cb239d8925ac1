"""Threads that the program waits for when it ends.

A daemon thread that is in C++ code (decoding a JPEG, reading a video, in ONNX Runtime) while the interpreter ends is
torn out of it when it comes back for the interpreter's lock, and C++ then ends the process with SIGABRT: `terminate
called without an active exception`. So each thread of ours that calls such code is let go first, and awaited.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable

_WAIT_S = 2.0  # no frame takes longer; a camera that hangs must not keep a program from ending

_THREADS: weakref.WeakKeyDictionary[threading.Thread, Callable[[], object]] = weakref.WeakKeyDictionary()


def await_at_exit(thread: threading.Thread, stop: Callable[[], object]) -> None:
    """Has the thread let go and awaited at the program's end, two seconds in all, after its models are closed.

    Args:
        thread: A daemon thread.
        stop: Tells it to end, without waiting for it; may be called twice.
    """
    _THREADS[thread] = stop


def _await_all() -> None:
    threads = [(thread, stop) for thread, stop in _THREADS.items() if thread.is_alive()]
    until_s = time.monotonic() + _WAIT_S
    with contextlib.suppress(KeyboardInterrupt):  # who asks twice does not want to wait
        for _, stop in threads:
            with contextlib.suppress(Exception):
                stop()
        for thread, _ in threads:
            thread.join(max(0.0, until_s - time.monotonic()))


atexit.register(_await_all)
