"""Backends that go wrong on purpose, for worker processes: `BackendSpec(factory="tests.runtime.faulty:NAME")`.

Each answers as the null backend does, until a frame comes whose upper left blue value is `mark`. With `once`,
the path of a file that is not there yet, it goes wrong a single time over all processes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
import time
from pathlib import Path

from trt_yolo.artifacts.manifest import manifest_from_json
from trt_yolo.backends.base import Frames, Output
from trt_yolo.backends.null import NullBackend
from trt_yolo.errors import BackendError, DeviceError

MARK = 255


class Faulty(NullBackend):
    """Completions every frame, until one with the mark comes.

    Args:
        manifest: As `Manifest.to_json` writes it.
        mark: The blue value on which it goes wrong; None: on none.
        once: A file that is made when it goes wrong, and stops it from doing so again.
        delay_ms: How long a batch takes, in milliseconds.
    """

    def __init__(
        self, manifest: str, *, mark: int | None = MARK, once: str | None = None, delay_ms: float = 0.0
    ) -> None:
        super().__init__(manifest_from_json(manifest, origin="the manifest"), delay_ms=delay_ms)
        self._mark = mark
        self._once = None if once is None else Path(once)

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        if (frames_bgr[:, 0, 0, 0] == self._mark).any() and self._is_due():
            self._go_wrong(frames_bgr)
        return super()._run(frames_bgr, conf, iou)

    def _is_due(self) -> bool:
        if self._once is None:
            return True
        try:
            self._once.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _go_wrong(self, frames_bgr: Frames) -> None:
        """What is wrong with it; here nothing."""


GATE = threading.Event()
"""What `Gated` waits for, in the same process: with `workers=0`."""


class Gated(Faulty):
    """Answers once `GATE` is set."""

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        GATE.wait(60)
        return super()._run(frames_bgr, conf, iou)


class Says(Faulty):
    """Goes never wrong, and says what it is."""

    about = {"gpu": "0: none", "warm_up": "3 batches"}  # noqa: RUF012  as a property would be


class Exits(Faulty):
    """Leaves with exit code 7."""

    def _go_wrong(self, frames_bgr: Frames) -> None:
        os._exit(7)


class Crashes(Faulty):
    """Dies of a segmentation fault."""

    def _go_wrong(self, frames_bgr: Frames) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Faulty):
    """Never comes back."""

    def _go_wrong(self, frames_bgr: Frames) -> None:
        time.sleep(1000)


class Refuses(Faulty):
    """Raises BackendError."""

    def _go_wrong(self, frames_bgr: Frames) -> None:
        raise BackendError("the frame is refused")


class Stumbles(Faulty):
    """Raises an error that is none of ours."""

    def _go_wrong(self, frames_bgr: Frames) -> None:
        raise ZeroDivisionError("the frame is odd")


class LosesDevice(Faulty):
    """Raises DeviceError."""

    def _go_wrong(self, frames_bgr: Frames) -> None:
        raise DeviceError("the device is lost")


class Scribbles(Faulty):
    """Writes over the slot's header, which lies one page before its frames.

    Args:
        at: From which byte of the header.
        count: How many bytes.
        value: Which byte is written.
    """

    def __init__(
        self, manifest: str, *, once: str, at: int = 0, count: int = mmap.PAGESIZE, value: int = 255
    ) -> None:
        super().__init__(manifest, once=once)
        self._at, self._count, self._value = at, count, value

    def _go_wrong(self, frames_bgr: Frames) -> None:
        ctypes.memset(frames_bgr.ctypes.data - mmap.PAGESIZE + self._at, self._value, self._count)


class FailsToLoad(Faulty):
    """Raises BackendError when it is made."""

    def __init__(self, manifest: str) -> None:
        raise BackendError("the model is of clay; give one of bronze")


class StumblesAtLoad(Faulty):
    """Raises an error that is none of ours when it is made."""

    def __init__(self, manifest: str) -> None:
        raise ZeroDivisionError("the model is odd")


class CrashesAtLoad(Faulty):
    """Dies of a segmentation fault when it is made."""

    def __init__(self, manifest: str) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(manifest)


class HangsAtLoad(Faulty):
    """Is never ready."""

    def __init__(self, manifest: str) -> None:
        time.sleep(1000)
        super().__init__(manifest)


class CrashesAtReload(Faulty):
    """Loads once, with `once`; its successors die when they are made."""

    def __init__(self, manifest: str, *, once: str) -> None:
        if Path(once).exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        Path(once).touch()
        super().__init__(manifest)
