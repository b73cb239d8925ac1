"""Who may allocate on a GPU while ONNX Runtime captures a graph in the same process.

It captures in CUDA's global mode, in which an allocation by any other thread fails and spoils the graph. Threads of
ours are told to keep out of it (`Binding.ignore_captures_elsewhere`); those of a library that decodes are not ours.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_changed = threading.Condition()
_allocating = 0
_is_capturing = False


@contextlib.contextmanager
def allocating() -> Iterator[None]:
    """Any number of threads at once, but never while one captures."""
    global _allocating
    with _changed:
        _changed.wait_for(lambda: not _is_capturing)
        _allocating += 1
    try:
        yield
    finally:
        with _changed:
            _allocating -= 1
            _changed.notify_all()


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """One thread, alone: it waits for those that allocate, and lets no more of them begin."""
    global _is_capturing
    with _changed:
        _changed.wait_for(lambda: not _is_capturing)
        _is_capturing = True
        _changed.wait_for(lambda: not _allocating)
    try:
        yield
    finally:
        with _changed:
            _is_capturing = False
            _changed.notify_all()
