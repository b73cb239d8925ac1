"""CUDA's driver through pycuda, where cuda-bindings cannot be had; see `binding.py`.

pycuda has no CUDA graphs, page-locks only memory of its own, and leaves a primary context half released. Those few
calls go to the driver's library itself, on the same context.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

_PORTABLE, _DEVICEMAP = 1, 2  # CU_MEMHOSTREGISTER_PORTABLE and _DEVICEMAP of cuda.h
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_LOST: list[Any] = []  # of contexts that are lost: pycuda aborts the process where such objects are freed
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class Pycuda:
    """See `Binding`."""

    name = "pycuda"
    can_capture = False

    def __init__(self) -> None:
        self._cuda: Any = importlib.import_module("pycuda.driver")
        self._library = ctypes.CDLL("libcuda.so.1")  # the one that pycuda has loaded
        self.Error: type[Exception] = self._cuda.Error
        self.MemoryError: type[Exception] = self._cuda.MemoryError
        self._device: Any = None
        self._context: Any = None
        self._is_lost = False
        self._kept: list[Any] = []  # freed by pycuda when nothing refers to it
        self._registered: list[int] = []

    def count(self) -> int:
        """See `Binding`."""
        self._cuda.init()
        return int(self._cuda.Device.count())

    def retain(self, index: int) -> None:
        """See `Binding`."""
        self._device = self._cuda.Device(index)
        self._context = self._device.retain_primary_context()

    def device_name(self) -> str:
        """See `Binding`."""
        return str(self._device.name())

    def is_integrated(self) -> bool:
        """See `Binding`."""
        return bool(self._device.get_attribute(self._cuda.device_attribute.INTEGRATED))

    def can_map(self) -> bool:
        """See `Binding`."""
        return bool(self._device.get_attribute(self._cuda.device_attribute.CAN_MAP_HOST_MEMORY))

    def push(self) -> None:
        """See `Binding`."""
        if self._is_lost:
            raise self.Error("the context is lost")
        self._context.push()

    def pop(self) -> None:
        """See `Binding`."""
        try:
            self._cuda.Context.pop()
        except self.Error:
            self._is_lost = True
            with contextlib.suppress(self.Error):  # else pycuda aborts the process when the thread ends
                self._context.detach()
            raise

    def synchronize(self) -> None:
        """See `Binding`."""
        self._cuda.Context.synchronize()

    def close(self) -> None:
        """See `Binding`."""
        try:
            self.push()
        except self.Error:
            _LOST.append(self._kept)
            return
        for address in self._registered:
            self._library.cuMemHostUnregister(ctypes.c_void_p(address))
        self._kept.clear()
        with contextlib.suppress(self.Error):
            self._context.detach()  # releases the context, and leaves it current
        self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def ignore_captures_elsewhere(self) -> None:
        """See `Binding`."""
        self._raw("cuThreadExchangeStreamCaptureMode", ctypes.byref(ctypes.c_int(_THREAD_LOCAL)))

    def stream(self) -> Any:
        """See `Binding`."""
        return self._until_close(self._cuda.Stream(_NON_BLOCKING))

    def event(self, *, blocking: bool) -> Any:
        """See `Binding`."""
        flags = self._cuda.event_flags
        return self._until_close(
            self._cuda.Event(flags.DISABLE_TIMING | (flags.BLOCKING_SYNC if blocking else 0))
        )

    def allocate(self, size: int) -> Any:
        """See `Binding`."""
        return self._until_close(self._cuda.mem_alloc(size))

    def memory_info(self) -> tuple[int, int]:
        """See `Binding`."""
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """See `Binding`."""
        array: npt.NDArray[Any] = self._until_close(self._cuda.pagelocked_empty(shape, dtype))
        return array

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """See `Binding`."""
        self._cuda.memcpy_htod_async(address, array, stream)

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """See `Binding`."""
        self._cuda.memcpy_dtoh_async(array, address, stream)

    def register(self, memory: npt.NDArray[np.uint8], *, mapped: bool) -> None:
        """See `Binding`."""
        address, flags = memory.ctypes.data, _PORTABLE | (_DEVICEMAP if mapped else 0)
        self._raw("cuMemHostRegister_v2", ctypes.c_void_p(address), ctypes.c_size_t(memory.nbytes), flags)
        self._registered.append(address)

    def mapped(self, array: npt.NDArray[Any]) -> int:
        """See `Binding`."""
        found = ctypes.c_void_p()
        self._raw("cuMemHostGetDevicePointer_v2", ctypes.byref(found), ctypes.c_void_p(array.ctypes.data), 0)
        return int(found.value or 0)

    def begin_capture(self, stream: Any) -> None:
        """See `Binding`; pycuda has none of it."""
        raise NotImplementedError

    def end_capture(self, stream: Any) -> Any:
        """See `Binding`; pycuda has none of it."""
        raise NotImplementedError

    def abandon_capture(self, stream: Any) -> None:
        """See `Binding`; pycuda has none of it."""

    def launch(self, graph: Any, stream: Any) -> None:
        """See `Binding`; pycuda has none of it."""
        raise NotImplementedError

    def destroy(self, graph: Any) -> None:
        """See `Binding`; pycuda has none of it."""

    def _until_close(self, what: Any) -> Any:
        self._kept.append(what)
        return what

    def _raw(self, call: str, *arguments: Any) -> None:
        error = getattr(self._library, call)(*arguments)
        if error:
            raise self.Error(f"{call}: CUDA error {error}")
