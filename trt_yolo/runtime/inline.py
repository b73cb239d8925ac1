"""A worker in a thread of the program: the same work over the same slots as a worker process does.

What `workers=0` runs on. Same interface as `runtime/process.py`, same results; but a crash of native code ends
the program, and a hang cannot be ended. Nothing is warmed up but what captures CUDA graphs: a program for one image
does not run two.
"""

from __future__ import annotations

import contextlib
import os
import threading

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.runtime.ipc import Wake
from trt_yolo.runtime.job import Death
from trt_yolo.runtime.process import RingOptions, WorkerGone, start_errors_in_words
from trt_yolo.runtime.ring import Ring, RingError
from trt_yolo.runtime.worker import WorkerSpec, run_slots


class WorkerThread:
    """A worker in a thread; see `runtime/process.py`, `Worker`.

    Args:
        spec: What it is told; its cores are those of the program.
        ring: How large its ring is.

    Raises:
        WorkerError: No file descriptor can be had.
    """

    def __init__(self, spec: WorkerSpec, *, ring: RingOptions) -> None:
        self.pid = os.getpid()
        self.manifest: Manifest | None = None
        self.ring: Ring | None = None
        self.is_ready = False
        self.doing = "loading the model"
        self.at_once = 1
        self.about: dict[str, str] = {}
        self._spec = spec
        self._ring_options = ring
        with contextlib.ExitStack() as on_error, start_errors_in_words():
            self.done, self.ready, self._news = (_created(on_error) for _ in range(3))
            on_error.pop_all()
        self._error: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trt-yolo-worker", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """See `Worker`."""
        return self._news.fileno()

    def receive(self) -> None:
        """See `Worker`."""
        self._news.take()
        if self._error is not None:
            unsent = isinstance(self._error, RingError)
            raise WorkerGone(Death(f"said: {self._error}", is_corrupt=unsent), self._error) from self._error
        self.is_ready = self.ring is not None

    def stop(self) -> None:
        """See `Worker`."""
        self._stopped.set()
        self.ready.signal()

    def kill(self) -> None:
        """See `Worker`; a thread can only be asked."""
        self.stop()

    def join(self, timeout_s: float) -> bool:
        """See `Worker`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """See `Worker`."""
        if not self._thread.is_alive():
            for wake in (self._news, self.ready, self.done):
                wake.close()
        if self.ring is not None:
            self.ring.close()
        self.ring = None

    def _run(self) -> None:
        try:
            with self._spec.backend.build(self._spec.threads) as backend:
                ring = Ring.create(self._ring_options.shape(backend.manifest))
                backend.adopt(ring.memory)
                if backend.captures:
                    self.doing = "warming up"
                    backend.warm_up([(slot.frames, slot.rows) for slot in ring.slots])
                self.at_once, self.about = backend.at_once, backend.about
                self.manifest, self.ring = backend.manifest, ring
                self._news.signal()
                run_slots(backend, ring, self.ready, self.done, self._stopped.is_set)
        except Exception as error:  # noqa: BLE001  the pool raises it where somebody waits
            self._error = error
            self._news.signal()


def _created(on_error: contextlib.ExitStack) -> Wake:
    wake = Wake.create()
    on_error.callback(wake.close)
    return wake
