"""A GPU that is none: the processor's own memory, and a stream that does everything at once.

Stands in for `trt_yolo.backends.cuda.Gpu`, so that lanes run with a real model where no GPU is: ONNX Runtime, on the
processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import BackendError


class Memory:
    """Bytes at an address."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(size, np.uint8)

    def __int__(self) -> int:
        return int(self.array.ctypes.data)


class Stream:
    """Does everything at once."""

    handles = itertools.count(4096)

    def __init__(self) -> None:
        self.handle = next(self.handles)


class Event:
    """Has happened when it is recorded."""

    def record(self, stream: Stream) -> None:
        """Nothing is left to wait for."""
        assert isinstance(stream, Stream)

    def query(self) -> bool:
        """See `Event`."""
        return True

    def synchronize(self) -> None:
        """See `Event`."""


class HostGpu:
    """See `trt_yolo.backends.cuda.Gpu`.

    Attributes:
        log: What was asked of it, in order.
        refuses: What `register` answers.
        captures: Whether graphs can be captured.
    """

    refuses = ""
    captures = True
    integrated = False
    can_map = True
    binding = "none"

    def __init__(self, index: int = 0, *, spin: bool = False) -> None:
        self.index, self.name, self.is_open = index, "no GPU", True
        self.log: list[str] = []
        self._depth = 0

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        assert self.is_open
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def stream(self) -> Stream:
        return Stream()

    def event(self) -> Event:
        return Event()

    def wait(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)

    def memory(self, size: int) -> Memory:
        self._used("memory")
        return Memory(size)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        self._used("pinned")
        return np.zeros(shape, dtype)

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Stream) -> None:
        self._used("in")
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Stream) -> None:
        self._used("out")
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def register(self, memory: npt.NDArray[np.uint8]) -> str:
        return self.refuses

    def mapped(self, array: npt.NDArray[Any]) -> int:
        self._used("mapped")
        return int(array.ctypes.data)

    def captured(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        if not self.captures:
            raise BackendError("capturing failed: not here")
        self._used("capture")
        return work

    def launch(self, graph: Callable[[], None], stream: Stream) -> None:
        self._used("launch")
        graph()

    def destroy(self, graph: Callable[[], None]) -> None:
        self._used("destroy")

    def refused(self, error: object) -> BackendError:
        return BackendError(f"GPU {self.index} refuses: {error}")

    def close(self) -> None:
        self.is_open = False

    def _used(self, what: str) -> None:
        assert self.is_open
        assert self._depth, f"{what} outside the context"
        self.log.append(what)
