"""One GPU: its primary context, memory, streams, events, captured graphs.

pycuda has contexts, streams, events, copies; cuda-bindings what pycuda lacks, page-locking memory that is shared with
another process and capturing graphs, with the same handles. Both are imported here alone, by whoever makes a `Gpu`.
Knows no models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import BackendError, DeviceError
from trt_yolo.importing import import_or_refuse

Bytes = npt.NDArray[np.uint8]

_PORTABLE, _DEVICEMAP = 1, 2  # CU_MEMHOSTREGISTER_PORTABLE and _DEVICEMAP of cuda.h
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream


class Gpu:
    """A GPU, through its primary context.

    Attributes:
        index: As CUDA counts.
        name: As the driver calls it.
        integrated: Whether it shares the processor's memory.
        can_map: Whether it can address page-locked memory of the processor.

    Args:
        index: As CUDA counts.

    Raises:
        MissingDependencyError: pycuda or cuda-bindings is not installed.
        BackendError: No such GPU, or the driver does not start.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = _imported("pycuda.driver")
        self._bindings = _imported("cuda.bindings.driver")
        try:
            self._cuda.init()
            count = self._cuda.Device.count()
        except self._cuda.Error as error:
            raise BackendError(f"the NVIDIA driver does not start ({error}); see trt-yolo doctor") from error
        if not 0 <= index < count:
            raise BackendError(f"there is no GPU {index}; {count} answer here, counted from 0")
        device = self._cuda.Device(index)
        attribute = self._cuda.device_attribute
        self.index, self.name = index, device.name()
        self.integrated = bool(device.get_attribute(attribute.INTEGRATED))
        self.can_map = bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY))
        self._registered: list[int] = []
        self._context: Any = device.retain_primary_context()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The context is this thread's; what CUDA refuses is said in words.

        Raises:
            DeviceError: The device is lost to this process.
            BackendError: Out of memory, or another refusal.
        """
        self._context.push()
        try:
            yield
        except self._cuda.MemoryError as error:
            raise BackendError(self._out_of_memory()) from error
        except self._cuda.Error as error:
            raise self.refused(error) from error
        finally:
            self._cuda.Context.pop()

    def stream(self) -> Any:
        """A new stream."""
        return self._cuda.Stream(_NON_BLOCKING)

    def event(self) -> Any:
        """A new event that is only asked whether it has happened."""
        return self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)

    def memory(self, size: int) -> Any:
        """So many bytes of the device's memory; its address is `int` of it.

        Raises:
            BackendError: There are not so many.
        """
        try:
            return self._cuda.mem_alloc(size)
        except self._cuda.MemoryError as error:
            raise BackendError(self._out_of_memory(size)) from error

    def free_and_total_bytes(self) -> tuple[int, int]:
        """The device's memory that nobody uses, and all of it; the context is current."""
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A page-locked array of this process."""
        array: npt.NDArray[Any] = self._cuda.pagelocked_empty(shape, dtype)
        return array

    def copy_in(self, address: Any, array: npt.NDArray[Any], stream: Any) -> None:
        """Copies a page-locked array to the device, in its turn."""
        self._cuda.memcpy_htod_async(address, array, stream)

    def copy_out(self, array: npt.NDArray[Any], address: Any, stream: Any) -> None:
        """Copies from the device into a page-locked array, in its turn."""
        self._cuda.memcpy_dtoh_async(array, address, stream)

    def register(self, memory: Bytes) -> str:
        """Page-locks memory that is another process's too; why it could not be, or nothing.

        The memory must begin at a page and stay mapped until `close`.
        """
        flags = _PORTABLE | (_DEVICEMAP if self.can_map else 0)
        (error,) = self._bindings.cuMemHostRegister(memory.ctypes.data, memory.nbytes, flags)
        if int(error):
            return str(error)
        self._registered.append(memory.ctypes.data)
        return ""

    def mapped(self, array: npt.NDArray[Any]) -> int:
        """The device's address of registered memory."""
        error, address = self._bindings.cuMemHostGetDevicePointer(array.ctypes.data, 0)
        self._check(error, "cuMemHostGetDevicePointer")
        return int(address)

    def captured(self, stream: Any, work: Callable[[], None]) -> Any:
        """A graph of what `work` gives a stream; nothing of it runs now.

        Raises:
            BackendError: It cannot be captured; the stream is as it was.
        """
        bindings, handle = self._bindings, self._bindings.CUstream(stream.handle)
        mode = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        (error,) = bindings.cuStreamBeginCapture(handle, mode)
        self._check(error, "cuStreamBeginCapture")
        try:
            work()
        except (BackendError, self._cuda.Error) as failed:
            bindings.cuStreamEndCapture(handle)
            raise BackendError(f"capturing failed: {failed}") from failed
        error, graph = bindings.cuStreamEndCapture(handle)
        self._check(error, "cuStreamEndCapture")
        error, executable = bindings.cuGraphInstantiate(graph, 0)
        bindings.cuGraphDestroy(graph)
        self._check(error, "cuGraphInstantiate")
        return executable

    def launch(self, graph: Any, stream: Any) -> None:
        """Gives a stream a captured graph to run."""
        (error,) = self._bindings.cuGraphLaunch(graph, self._bindings.CUstream(stream.handle))
        self._check(error, "cuGraphLaunch")

    def destroy(self, graph: Any) -> None:
        """Gives back a captured graph."""
        self._bindings.cuGraphExecDestroy(graph)

    @property
    def is_open(self) -> bool:
        """Whether it has its context."""
        return self._context is not None

    def refused(self, error: object) -> BackendError:
        """What to raise where a library of this process reports an error of CUDA's.

        After some errors nothing works in this process any more: the context itself says whether it does.
        """
        text = " ".join(str(error).split())
        try:
            self._cuda.Context.synchronize()
        except self._cuda.Error:
            return DeviceError(f"GPU {self.index} is lost to this process: {text}; a new process can go on")
        return BackendError(f"GPU {self.index} refuses: {text}")

    def close(self) -> None:
        """Unlocks what was page-locked, and lets the context go; calling twice is fine."""
        if self._context is None:
            return
        self._context.push()
        for address in self._registered:
            self._bindings.cuMemHostUnregister(address)
        self._cuda.Context.pop()
        self._registered.clear()
        self._context.detach()
        self._context = None

    def _check(self, error: Any, call: str) -> None:
        if int(error):
            raise self.refused(f"{call}: {error}")

    def _out_of_memory(self, asked: int = 0) -> str:
        free, total = self._cuda.mem_get_info()
        wanted = f"{asked / 2**20:.1f} MiB were asked for, " if asked else ""
        return (
            f"the memory of GPU {self.index} is full: {wanted}{free >> 20} of {total >> 20} MiB are free; "
            "use fewer workers or streams, a smaller batch, or --workspace when building"
        )


def _imported(module: str) -> Any:
    package = "pycuda" if module.startswith("pycuda") else "cuda-bindings"
    return import_or_refuse(module, purpose="running on a GPU", package=package, extra="gpu")
