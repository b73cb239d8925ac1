"""A worker process as its program sees it: started, told what to run, stopped.

The process is a fresh interpreter (`python -c`), not one of multiprocessing's: that would run the program's
main script again, which is where "if __name__ == '__main__'" comes from. So workers start alike from scripts,
notebooks, pytest, threads and `python -`. Knows no jobs and no batches.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trt_yolo import errors
from trt_yolo.artifacts.manifest import DEFAULT_ROWS, Manifest, manifest_from_json
from trt_yolo.errors import TrtYoloError, WorkerError
from trt_yolo.runtime.ipc import Channel, Wake
from trt_yolo.runtime.job import Death
from trt_yolo.runtime.ring import Ring, RingError, RingShape
from trt_yolo.runtime.worker import WorkerSpec
from trt_yolo.system.interpreter import WHAT_TO_SET, executable, fresh_python

_RECEIVE_S = 10.0
_REAP_S = 5.0
_LOOK_S = 0.005
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


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
        doing: What it does until then, in words.
        at_once: Batches that it runs at the same time.
        about: What its backend says of itself.
        ready: To be signalled once for every slot that became READY.
        done: Signalled once for every slot that it has answered.
    """

    pid: int
    manifest: Manifest | None
    ring: Ring | None
    is_ready: bool
    doing: str
    at_once: int
    about: dict[str, str]
    ready: Wake
    done: Wake

    def fileno(self) -> int:
        """What to poll: readable when there is something to `receive`."""

    def receive(self) -> None:
        """Reads the worker's next message and answers it, until the worker is ready.

        Raises:
            WorkerGone: It has ended.
            WorkerError: There is no memory for its ring.
        """

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
        self._spec = spec
        self._ring_options = ring
        self._is_python = False
        self._exit_code: int | None = None
        with contextlib.ExitStack() as on_error, start_errors_in_words():
            self.ready = Wake.create()
            on_error.callback(self.ready.close)
            self.done = Wake.create()
            on_error.callback(self.done.close)
            self._channel, theirs = Channel.pair()
            on_error.callback(self._channel.close)
            with contextlib.closing(theirs):
                self._process = _started(theirs.fileno(), spec.folder)
            on_error.pop_all()
        self.pid = self._process.pid
        self.doing = f"starting {executable()}"

    def fileno(self) -> int:
        """See `Worker`."""
        return self._channel.fileno()

    def receive(self) -> None:
        """See `Worker`."""
        try:
            received = self._channel.receive(timeout_s=_RECEIVE_S)
        except TimeoutError:
            raise WorkerGone(Death("stopped in the middle of a message")) from None
        if received is None:
            raise self._gone()
        message = received[0]
        if "doing" in message:
            self.doing = message["doing"]
        if not self._is_python:  # now it reads, however much that is
            self._is_python = True
            self._tell(self._spec.to_dict())
        if "error" in message:
            error = _error(message)
            raise WorkerGone(Death(f"said: {error}", is_corrupt=isinstance(error, RingError)), error)
        if "loaded" in message:
            self.at_once = int(message["at_once"])
            self._share(manifest_from_json(message["loaded"], origin="the worker's model"))
        self.is_ready = "ready" in message
        self.about = message.get("about", {})

    def stop(self) -> None:
        """See `Worker`."""
        self._tell({"stop": True})

    def kill(self) -> None:
        """See `Worker`."""
        self._process.kill()  # SIGKILL also ends a process that is stopped

    def join(self, timeout_s: float) -> bool:
        """See `Worker`."""
        until_s = time.monotonic() + timeout_s
        while not self._has_ended():
            if time.monotonic() >= until_s:
                return False
            time.sleep(_LOOK_S)
        return True

    def close(self) -> None:
        """See `Worker`."""
        self._channel.close()
        self.ready.close()
        self.done.close()
        if self.ring is not None:
            self.ring.close()
        self.ring = None

    def _share(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.ring = Ring.create(self._ring_options.shape(manifest))
        fds = [self.ring.fd, self.ready.read_fd, self.ready.write_fd, self.done.write_fd]
        self._tell({"shape": self.ring.shape.to_dict()}, fds)
        self.ring.close()  # the worker has its own descriptor, and we our mapping

    def _tell(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        with contextlib.suppress(OSError):  # it has ended: `receive` will tell
            self._channel.send(message, fds)

    def _has_ended(self) -> bool:
        """Whether it has; takes its exit code, if nobody else has (`Popen.wait` makes a 0 of that)."""
        if self._process.returncode is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._process.returncode = 0
            else:
                self._exit_code = os.waitstatus_to_exitcode(status) if ended else None
                self._process.returncode = self._exit_code
        return self._process.returncode is not None

    def _gone(self) -> WorkerGone:
        """Why the process ended, now that its end of the channel is closed."""
        death = self._death()
        if self._is_python:
            return WorkerGone(death)
        return WorkerGone(
            death,
            WorkerError(
                f"{executable()} {death.cause} before it had imported trt_yolo; see its last lines above, or, "
                f"if it is not a Python interpreter, {WHAT_TO_SET}, or use workers=0"
            ),
        )

    def _death(self) -> Death:
        if not self.join(_REAP_S):
            self.kill()
            return Death("closed its channel and stayed")
        code = self._exit_code
        if code is None:
            return Death(
                "ended with unknown status (this program ignores SIGCHLD, or waits for its children itself)",
                from_outside=True,
            )
        if code >= 0:
            return Death(f"left with exit code {code}")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (by somebody, or by the kernel for want of memory)" if name == "SIGKILL" else ""
        return Death(f"was ended by {name}{hint}", from_outside=name in ("SIGKILL", "SIGTERM"))


def _started(fd: int, folder: str | None) -> subprocess.Popen[bytes]:
    """A fresh interpreter that serves over that descriptor."""
    try:
        with fresh_python("trt_yolo.runtime.worker:serve", fd) as (command, file):
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=2,  # the program's output is its own
                pass_fds=[fd, file],
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for the program, also while the worker still starts
            )
    except WorkerError as error:
        raise WorkerError(f"{error}, or use workers=0") from error


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
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        hint = (
            "; close files, raise the limits (ulimit -n for files, -u for processes), or ask for fewer workers"
            if error.errno in _SCARCE
            else ""
        )
        raise WorkerError(f"cannot start a worker process ({what}){hint}") from error
