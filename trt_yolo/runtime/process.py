"""A worker process as its program sees it: started, listened to, stopped.

The process is a fresh interpreter (`python -c`), not one of multiprocessing's: that would run the program's
main script again, which is where "if __name__ == '__main__'" comes from. So workers start alike from scripts,
notebooks, pytest, threads and `python -`. Knows no jobs and no batches.
"""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from trt_yolo import errors
from trt_yolo.errors import TrtYoloError, WorkerError
from trt_yolo.manifest import DEFAULT_ROWS, Manifest, manifest_from_json
from trt_yolo.runtime.channel import Channel
from trt_yolo.runtime.jobs import Death
from trt_yolo.runtime.ring import Ring, RingError
from trt_yolo.runtime.ring_shape import RingShape
from trt_yolo.runtime.wake import Wake
from trt_yolo.runtime.worker import WorkerSpec

_HEAR_S = 10.0
_REAP_S = 5.0


class WorkerGone(Exception):  # noqa: N818  not an error that users see
    """A worker that has ended, or is ending.

    Attributes:
        death: Why.
        error: What it said itself, if it could.
    """

    def __init__(self, death: Death, error: Exception | None = None) -> None:
        super().__init__(death.cause)
        self.death = death
        self.error = error


class Worker(Protocol):
    """What a pool needs of a worker, be it a process or a thread.

    Attributes:
        pid: Of its process.
        manifest: What it has loaded; None until then.
        ring: The memory shared with it; None until it has loaded.
        is_ready: Whether slots may be sent.
        at_once: Batches that it runs at the same time.
        about: What its backend says of itself.
        done: Signalled once for every slot that it has answered.
    """

    pid: int
    manifest: Manifest | None
    ring: Ring | None
    is_ready: bool
    at_once: int
    about: dict[str, str]
    done: Wake

    def fileno(self) -> int:
        """What to poll: readable when `hear` has something to say."""

    def hear(self) -> None:
        """Takes in what the worker says, and brings it on to being ready.

        Raises:
            WorkerGone: It has ended.
            WorkerError: There is no memory for its ring.
        """

    def notify(self) -> None:
        """One more slot is READY."""

    def stop(self) -> None:
        """Asks it to leave."""

    def kill(self) -> None:
        """Ends it, whatever it is doing."""

    def join(self, timeout_s: float) -> bool:
        """Whether it has left, after waiting at most so many seconds."""

    def close(self) -> None:
        """Gives back its descriptors; its ring's memory goes when nothing refers to it any more."""


@dataclass(frozen=True, kw_only=True)
class RingOptions:
    """How large a worker's ring is.

    Attributes:
        slots: How many slots.
        max_batch: The most frames a slot; None: the model's largest batch.
    """

    slots: int
    max_batch: int | None = None

    def shape(self, manifest: Manifest) -> RingShape:
        """The ring for that model.

        Raises:
            InputError: A batch that the model does not take.
        """
        batch = manifest.batch.maximum if self.max_batch is None else self.max_batch
        manifest.batch.check(batch)
        return RingShape(
            slots=self.slots,
            batch=batch,
            imgsz_hw=manifest.frame_hw,
            rows=manifest.rows or DEFAULT_ROWS,
            letterboxed_hw=None if manifest.source_hw is None else manifest.imgsz_hw,
        )


class WorkerProcess:
    """A worker in a process of its own; see `Worker`.

    Args:
        spec: What it is told.
        ring: How large its ring is.

    Raises:
        WorkerError: No process, or no file descriptor, can be had.
    """

    def __init__(self, spec: WorkerSpec, *, ring: RingOptions) -> None:
        self.manifest: Manifest | None = None
        self.ring: Ring | None = None
        self.is_ready = False
        self.at_once = 1
        self.about: dict[str, str] = {}
        self._ring_options = ring
        with contextlib.ExitStack() as on_error, start_errors_in_words():
            self._ready = Wake.create()
            on_error.callback(self._ready.close)
            self.done = Wake.create()
            on_error.callback(self.done.close)
            self._channel, theirs = Channel.pair()
            on_error.callback(self._channel.close)
            with contextlib.closing(theirs):
                self._process = _started(theirs.fileno(), spec.folder)
            on_error.pop_all()
        self.pid = self._process.pid
        with contextlib.suppress(OSError):  # it has ended: `hear` will tell
            self._channel.send(spec.to_dict())

    def fileno(self) -> int:
        """See `Worker`."""
        return self._channel.fileno()

    def hear(self) -> None:
        """See `Worker`."""
        try:
            received = self._channel.receive(timeout_s=_HEAR_S)
        except TimeoutError:
            raise WorkerGone(Death("stopped in the middle of a message")) from None
        if received is None:
            raise WorkerGone(self._death())
        message = received[0]
        if "error" in message:
            error = _error(message)
            raise WorkerGone(Death(f"said: {error}", is_torn=isinstance(error, RingError)), error)
        if "loaded" in message:
            self.at_once = int(message["at_once"])
            self._share(manifest_from_json(message["loaded"], origin="the worker's model"))
        self.is_ready = "ready" in message
        self.about = message.get("about", {})

    def notify(self) -> None:
        """See `Worker`."""
        self._ready.signal()

    def stop(self) -> None:
        """See `Worker`."""
        with contextlib.suppress(OSError):
            self._channel.send({"stop": True})

    def kill(self) -> None:
        """See `Worker`."""
        self._process.kill()  # SIGKILL also ends a process that is stopped

    def join(self, timeout_s: float) -> bool:
        """See `Worker`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """See `Worker`."""
        self._channel.close()
        self._ready.close()
        self.done.close()
        if self.ring is not None:
            self.ring.close()
        self.ring = None

    def _share(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.ring = Ring.create(self._ring_options.shape(manifest))
        fds = [self.ring.fd, self._ready.read_fd, self._ready.write_fd, self.done.write_fd]
        with contextlib.suppress(OSError):
            self._channel.send({"shape": self.ring.shape.to_dict()}, fds)
        self.ring.close()  # the worker has its own descriptor, and we our mapping

    def _death(self) -> Death:
        """How the process ended, now that its end of the channel is closed."""
        if not self.join(_REAP_S):
            self.kill()
            return Death("closed its channel and stayed")
        code = self._process.returncode
        if code >= 0:
            return Death(f"left with exit code {code}")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (by somebody, or by the kernel for want of memory)" if name == "SIGKILL" else ""
        return Death(f"was ended by {name}{hint}", from_outside=name in ("SIGKILL", "SIGTERM"))


def _started(fd: int, folder: str | None) -> subprocess.Popen[bytes]:
    """A fresh interpreter that serves over that descriptor, with the program's import path."""
    if getattr(sys, "frozen", False) and _interpreter() == sys.executable:
        raise WorkerError(
            "worker processes need a Python interpreter, and this program is frozen into one file; "
            "use workers=0, or name one with multiprocessing.set_executable('/usr/bin/python3')"
        )
    code = f"import sys; sys.path[:] = {sys.path!r}; from trt_yolo.runtime.worker import serve; serve({fd})"
    return subprocess.Popen(
        [_interpreter(), "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=_stderr_fd(),  # the program's output is its own
        pass_fds=[fd],
        cwd=folder,
        start_new_session=True,  # Ctrl-C is for the program, also while the worker still starts
    )


def _interpreter() -> str:
    return os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)


def _stderr_fd() -> int:
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _error(message: dict[str, Any]) -> TrtYoloError:
    """The worker's error as if it had been raised here."""
    kind = getattr(errors, message["error"], RingError if message["error"] == "RingError" else WorkerError)
    is_ours = isinstance(kind, type) and issubclass(kind, TrtYoloError)
    return kind(message["text"]) if is_ours else WorkerError(message["text"])


@contextlib.contextmanager
def start_errors_in_words() -> Iterator[None]:
    """Raises WorkerError where the system refuses a process or a file descriptor."""
    try:
        yield
    except OSError as error:
        raise WorkerError(
            f"cannot start a worker process ({error.strerror}); close files, raise the limits "
            "(ulimit -n for files, -u for processes), or ask for fewer workers"
        ) from error
