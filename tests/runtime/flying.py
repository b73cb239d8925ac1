"""A backend that has several batches under way: the work of `faulty.Faulty`, each batch in a thread of its own."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.runtime.faulty import Crashes, Faulty, Hangs, LosesDevice, Refuses
from trt_yolo.backends.base import Flight

Array = npt.NDArray[Any]


class Thrown(Flight):
    """A batch in a thread."""

    def __init__(self, future: concurrent.futures.Future[None]) -> None:
        self._future = future

    def is_done(self) -> bool:
        return self._future.done()

    def finish(self) -> None:
        self._future.result()


class Flying(Faulty):
    """Up to `at_once` batches at the same time.

    Attributes:
        most: How many were.
        hold: Batches under way wait for it; set unless a test clears it.
    """

    def __init__(self, *, at_once: int = 3, jitter_ms: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.at_once = at_once
        self.most = 0
        self.hold = threading.Event()
        self.hold.set()
        self._jitter_ms = jitter_ms
        self._lock = threading.Lock()
        self._under_way = 0
        self._random = np.random.default_rng(0)
        self._threads = concurrent.futures.ThreadPoolExecutor(at_once)

    def begin_into(self, *arrays: Array, **options: Any) -> Flight:
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            assert self._under_way <= self.at_once
        return Thrown(self._threads.submit(self._fly, arrays, options, float(self._random.uniform())))

    def _fly(self, arrays: tuple[Array, ...], options: dict[str, Any], chance: float) -> None:
        try:
            time.sleep(self._jitter_ms * chance / 1e3)
            self.hold.wait(60)
            self.infer_into(*arrays, **options)
        finally:
            with self._lock:
                self._under_way -= 1


class FlyingCrashes(Flying, Crashes):
    """Dies of a segmentation fault, with others under way."""


class FlyingHangs(Flying, Hangs):
    """Never comes back, with others under way."""


class FlyingRefuses(Flying, Refuses):
    """Raises BackendError, when the batch is finished."""


class FlyingLosesDevice(Flying, LosesDevice):
    """Raises DeviceError, when the batch is finished."""


class RefusesToBegin(Flying):
    """Raises when a batch with the mark is begun."""

    def begin_into(self, *arrays: Array, **options: Any) -> Flight:
        if (arrays[0][: options["count"], 0, 0, 0] == 255).any():
            raise ZeroDivisionError("it does not begin")
        return super().begin_into(*arrays, **options)


class Adopts(Flying):
    """Refuses to run before it was given the memory that the frames lie in."""

    def adopt(self, memory: npt.NDArray[np.uint8]) -> None:
        self._start, self._end = memory.ctypes.data, memory.ctypes.data + memory.nbytes
        assert self._start % 4096 == 0

    def begin_into(self, *arrays: Array, **options: Any) -> Flight:
        for array in arrays:
            assert self._start <= array.ctypes.data < array.ctypes.data + array.nbytes <= self._end
        return super().begin_into(*arrays, **options)
