"""One GPU: its primary context, memory, streams, events, captured graphs; what CUDA refuses, said in words.

Enters: a device's number. What it gives is valid until `close`. Knows no models, and neither cuda-bindings nor pycuda.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.binding import Event, Stream, open_binding
from trt_yolo.errors import BackendError, DeviceError

_Bytes = npt.NDArray[np.uint8]


class Gpu:
    """A GPU, through its primary context.

    Attributes:
        index: As CUDA counts.
        name: As the driver calls it.
        integrated: Whether it shares the processor's memory.
        can_map: Whether it can address page-locked memory of the processor.
        can_capture: Whether the binding has CUDA graphs.
        binding: The package that calls CUDA.

    Args:
        index: As CUDA counts.
        spin: Never sleep while waiting: lower latency, one core busy.

    Raises:
        MissingDependencyError: No CUDA binding is installed, or none that fits the driver.
        BackendError: No such GPU, or the driver does not start.
    """

    def __init__(self, index: int = 0, *, spin: bool = False) -> None:
        self._cuda, self._spin = open_binding(), spin
        self.binding, self.can_capture = self._cuda.name, self._cuda.can_capture
        try:
            count = self._cuda.count()
            if not 0 <= index < count:
                raise BackendError(f"there is no GPU {index}; {count} answer here, counted from 0")
            self._cuda.retain(index)
        except self._cuda.Error as error:
            raise BackendError(f"the NVIDIA driver does not start ({error}); see trt-yolo doctor") from error
        self.index, self.name = index, self._cuda.device_name()
        self.integrated, self.can_map = self._cuda.is_integrated(), self._cuda.can_map()
        self.is_open, self._is_capturing = True, False
        self._awaited: Event | None = None
        with self.current():
            self._cuda.ignore_captures_elsewhere()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's; what CUDA refuses is said in words.

        Raises:
            DeviceError: The device is lost to this process.
            BackendError: Out of memory, or another refusal.
        """
        try:
            self._cuda.push()
            has_failed = True
            try:
                yield
                has_failed = False
            except self._cuda.Error as error:  # the context is still there to be asked
                raise self._in_words(error) from error
            finally:
                self._pop(is_quiet=has_failed)
        except self._cuda.Error as error:  # of push or pop: the context itself is broken
            raise self._lost(error) from error

    def stream(self) -> Stream:
        """A new stream."""
        return self._cuda.stream()

    def event(self) -> Event:
        """A new event; who waits for it sleeps, unless the GPU spins."""
        return self._cuda.event(blocking=not self._spin)

    def wait(self, stream: Stream) -> None:
        """Waits until the stream has done all that it was given."""
        self._awaited = self._awaited or self.event()
        self._awaited.record(stream)
        self._awaited.synchronize()

    def memory(self, size: int) -> Any:
        """So many bytes of the device's memory; its address is `int` of it.

        Raises:
            BackendError: There are not so many.
        """
        try:
            return self._cuda.allocate(size)
        except self._cuda.MemoryError as error:
            raise BackendError(self._out_of_memory(size)) from error

    def free_and_total_bytes(self) -> tuple[int, int]:
        """The device's memory that nobody uses, and all of it; the context is current."""
        return self._cuda.memory_info()

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A page-locked array of this process."""
        return self._cuda.pinned(shape, dtype)

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Stream) -> None:
        """Copies a page-locked array to the device, in its turn."""
        self._cuda.copy_in(address, array, stream)

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Stream) -> None:
        """Copies from the device into a page-locked array, in its turn."""
        self._cuda.copy_out(array, address, stream)

    def register(self, memory: _Bytes) -> str:
        """Page-locks memory that is another process's too; why it could not be, or nothing.

        The memory must begin at a page and stay mapped until `close`.
        """
        try:
            self._cuda.register(memory, mapped=self.can_map)
        except self._cuda.Error as error:
            return str(error)
        return ""

    def mapped(self, array: npt.NDArray[Any]) -> int:
        """The device's address of registered memory."""
        return self._cuda.mapped(array)

    def captured(self, stream: Stream, work: Callable[[], None]) -> Any:
        """A graph of what `work` gives a stream; nothing of it runs now.

        Raises:
            DeviceError: The device is lost to this process.
            BackendError: It cannot be captured; the stream is as it was.
        """
        if not self.can_capture:
            raise BackendError(f"{self.binding} has no CUDA graphs; pip install cuda-bindings for them")
        self._cuda.begin_capture(stream)
        self._is_capturing = True
        try:
            work()
        except BaseException as error:
            self._cuda.abandon_capture(stream)
            self._is_capturing = False
            if isinstance(error, (BackendError, self._cuda.Error)):
                raise self.refused(f"capturing failed: {error}") from error
            raise
        self._is_capturing = False
        return self._cuda.end_capture(stream)

    def launch(self, graph: Any, stream: Stream) -> None:
        """Gives a stream a captured graph to run."""
        self._cuda.launch(graph, stream)

    def destroy(self, graph: Any) -> None:
        """Gives back a captured graph."""
        self._cuda.destroy(graph)

    def refused(self, error: object) -> BackendError:
        """What to raise where a library of this process reports an error of CUDA's.

        After some errors nothing works in this process any more: the context itself says whether it does. While a graph
        is captured it cannot be asked.
        """
        text = " ".join(str(error).split())
        if not self._is_capturing:
            try:
                self._cuda.synchronize()
            except self._cuda.Error:
                return self._lost(text)
        return BackendError(f"GPU {self.index} refuses: {text}")

    def close(self) -> None:
        """Frees all that it gave and lets the context go; from any thread, and calling twice is fine."""
        if self.is_open:
            self.is_open = False
            self._cuda.close()

    def _in_words(self, error: Exception) -> BackendError:
        if isinstance(error, self._cuda.MemoryError):
            return BackendError(self._out_of_memory())
        return self.refused(error)

    def _lost(self, error: object) -> DeviceError:
        return DeviceError(f"GPU {self.index} is lost to this process: {error}; a new process can go on")

    def _pop(self, *, is_quiet: bool) -> None:
        """After an error that breaks the context this fails too, and what was said first is worth more."""
        try:
            self._cuda.pop()
        except self._cuda.Error:
            if not is_quiet:
                raise

    def _out_of_memory(self, asked: int = 0) -> str:
        free, total = self._cuda.memory_info()
        wanted = f"{asked / 2**20:.1f} MiB were asked for, " if asked else ""
        return (
            f"the memory of GPU {self.index} is full: {wanted}{free >> 20} of {total >> 20} MiB are free; "
            "use fewer workers or streams, a smaller batch, or --workspace when building"
        )
