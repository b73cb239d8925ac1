"""What might take memory or time, run in a limited process of its own."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from trt_yolo.errors import TrtYoloError

_TIMEOUT_S = 10
_MEMORY_BYTES = 3 << 30


def _limited(work: Callable[[Path], None], path: Path, answer: Connection) -> None:
    """What runs in the process of its own: sends the error's class and the peak memory in MB."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    error = None
    try:
        work(path)
    except TrtYoloError as caught:
        error = type(caught).__name__
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    answer.send((error, int(status["VmHWM"].split()[0]) >> 10))


def assert_refused_within_limits(work: Callable[[Path], object], path: Path) -> None:
    """Fails unless `work(path)` raises an error of ours, soon, and without taking memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(work, path, sender))
    process.start()
    sender.close()
    try:
        assert receiver.poll(_TIMEOUT_S), f"it did not end within {_TIMEOUT_S} s"
        error, peak_mb = receiver.recv()
    except EOFError:
        pytest.fail("it ended with an error that is not ours: see the traceback above")
    finally:
        process.kill()
        process.join()
    assert error is not None, "it was taken for sound"
    assert peak_mb < 500, f"it took {peak_mb} MB"
