"""CUDA's driver through NVIDIA's package cuda-bindings; see `binding.py`.

Each call of the driver returns its error first; here it is raised.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class _CudaError(Exception):
    """A call that the driver refused."""


class _CudaMemoryError(_CudaError):
    """There is not so much device memory."""


class CudaBindings:
    """See `Binding`."""

    name = "cuda-bindings"
    can_capture = True
    Error: type[Exception] = _CudaError
    MemoryError: type[Exception] = _CudaMemoryError

    def __init__(self) -> None:
        self._cu: Any = importlib.import_module("cuda.bindings.driver")
        self._device: Any = None
        self._context: Any = None
        self._to_free: list[tuple[Callable[..., Any], Any]] = []

    def count(self) -> int:
        """See `Binding`."""
        try:
            self._do(self._cu.cuInit, 0)
        except RuntimeError as error:  # it does not find the driver's library
            raise _CudaError(str(error)) from error
        return int(self._do(self._cu.cuDeviceGetCount))

    def retain(self, index: int) -> None:
        """See `Binding`."""
        self._device = self._do(self._cu.cuDeviceGet, index)
        self._context = self._do(self._cu.cuDevicePrimaryCtxRetain, self._device)

    def device_name(self) -> str:
        """See `Binding`."""
        name: bytes = self._do(self._cu.cuDeviceGetName, 256, self._device)
        return name.split(b"\0")[0].decode(errors="replace")

    def is_integrated(self) -> bool:
        """See `Binding`."""
        return self._attribute(self._cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED)

    def can_map(self) -> bool:
        """See `Binding`."""
        return self._attribute(self._cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY)

    def push(self) -> None:
        """See `Binding`."""
        self._do(self._cu.cuCtxPushCurrent, self._context)

    def pop(self) -> None:
        """See `Binding`."""
        self._do(self._cu.cuCtxPopCurrent)

    def synchronize(self) -> None:
        """See `Binding`."""
        self._do(self._cu.cuCtxSynchronize)

    def close(self) -> None:
        """See `Binding`."""
        with contextlib.suppress(_CudaError):
            self.push()
        while self._to_free:
            free, what = self._to_free.pop()
            free(what)  # an error that an earlier call left is told here again
        with contextlib.suppress(_CudaError):
            self.pop()
        self._cu.cuDevicePrimaryCtxRelease(self._device)

    def ignore_captures_elsewhere(self) -> None:
        """See `Binding`."""
        self._do(self._cu.cuThreadExchangeStreamCaptureMode, self._thread_local)

    def stream(self) -> _Stream:
        """See `Binding`."""
        flags = self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING
        return _Stream(self._until_close(self._do(self._cu.cuStreamCreate, flags), self._cu.cuStreamDestroy))

    def event(self, *, blocking: bool) -> _Event:
        """See `Binding`."""
        flags = self._cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
        if blocking:
            flags = int(flags) | int(self._cu.CUevent_flags.CU_EVENT_BLOCKING_SYNC)
        return _Event(
            self, self._until_close(self._do(self._cu.cuEventCreate, flags), self._cu.cuEventDestroy)
        )

    def allocate(self, size: int) -> Any:
        """See `Binding`."""
        return self._until_close(self._do(self._cu.cuMemAlloc, size), self._cu.cuMemFree)

    def memory_info(self) -> tuple[int, int]:
        """See `Binding`."""
        free, total = self._do(self._cu.cuMemGetInfo)
        return int(free), int(total)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """See `Binding`."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._do(self._cu.cuMemHostAlloc, size, self._cu.CU_MEMHOSTALLOC_PORTABLE)
        self._until_close(address, self._cu.cuMemFreeHost)
        memory: Any = (ctypes.c_uint8 * size).from_address(address)
        array: npt.NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)
        return array

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """See `Binding`."""
        self._do(self._cu.cuMemcpyHtoDAsync, address, array.ctypes.data, array.nbytes, stream.raw)

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """See `Binding`."""
        self._do(self._cu.cuMemcpyDtoHAsync, array.ctypes.data, address, array.nbytes, stream.raw)

    def register(self, memory: npt.NDArray[np.uint8], *, mapped: bool) -> None:
        """See `Binding`."""
        flags = self._cu.CU_MEMHOSTREGISTER_PORTABLE | (
            self._cu.CU_MEMHOSTREGISTER_DEVICEMAP if mapped else 0
        )
        self._do(self._cu.cuMemHostRegister, memory.ctypes.data, memory.nbytes, flags)
        self._until_close(memory.ctypes.data, self._cu.cuMemHostUnregister)

    def mapped(self, array: npt.NDArray[Any]) -> int:
        """See `Binding`."""
        return int(self._do(self._cu.cuMemHostGetDevicePointer, array.ctypes.data, 0))

    def begin_capture(self, stream: Any) -> None:
        """See `Binding`."""
        self._do(self._cu.cuStreamBeginCapture, stream.raw, self._thread_local)

    def end_capture(self, stream: Any) -> Any:
        """See `Binding`."""
        graph = self._do(self._cu.cuStreamEndCapture, stream.raw)
        try:
            return self._do(self._cu.cuGraphInstantiate, graph, 0)
        finally:
            self._cu.cuGraphDestroy(graph)

    def abandon_capture(self, stream: Any) -> None:
        """See `Binding`."""
        error, graph = self._cu.cuStreamEndCapture(stream.raw)
        if not int(error) and int(graph):
            self._cu.cuGraphDestroy(graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """See `Binding`."""
        self._do(self._cu.cuGraphLaunch, graph, stream.raw)

    def destroy(self, graph: Any) -> None:
        """See `Binding`."""
        self._cu.cuGraphExecDestroy(graph)

    @property
    def _thread_local(self) -> Any:
        return self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    def _attribute(self, which: Any) -> bool:
        return bool(self._do(self._cu.cuDeviceGetAttribute, which, self._device))

    def _until_close(self, what: Any, free: Callable[..., Any]) -> Any:
        self._to_free.append((free, what))
        return what

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call of the driver returns after its error: nothing, one value or several."""
        error, *found = call(*arguments)
        if int(error):
            self._refuse(call, error)
        return found[0] if len(found) == 1 else found

    def _refuse(self, call: Callable[..., Any], error: Any) -> None:
        is_memory = error == self._cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        raise (_CudaMemoryError if is_memory else _CudaError)(f"{call.__name__}: {error.name}")


class _Stream:
    """A stream; see `binding.Stream`."""

    def __init__(self, raw: Any) -> None:
        self.raw, self.handle = raw, int(raw)


class _Event:
    """An event; see `binding.Event`."""

    def __init__(self, binding: CudaBindings, raw: Any) -> None:
        self._do, self._cu, self._raw = binding._do, binding._cu, raw

    def record(self, stream: Any) -> None:
        self._do(self._cu.cuEventRecord, self._raw, stream.raw)

    def query(self) -> bool:
        (error,) = self._cu.cuEventQuery(self._raw)
        if error == self._cu.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self._do(lambda: (error,))
        return True

    def synchronize(self) -> None:
        self._do(self._cu.cuEventSynchronize, self._raw)
