"""What a process over the stand-in calls: cuda-bindings, where each refusal is an exception; see test_fake_cuda.py."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver

_ROWS_TYPES = (*[ctypes.c_void_p] * 5, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)


def cu(name: str, *arguments: Any) -> Any:
    """What a driver call returns; asserts that it succeeds."""
    error, *results = getattr(driver, name)(*arguments)
    assert int(error) == 0, (name, error)
    return results[0] if len(results) == 1 else tuple(results)


def code(name: str, *arguments: Any) -> int:
    """The error number of a driver call."""
    return int(getattr(driver, name)(*arguments)[0])


def count(what: str) -> int:
    """What the stand-in counted."""
    return int(ctypes.CDLL("libcuda.so.1").fake_cuda_count(what.encode()))


def entered(device: int = 0) -> Any:
    """The device's primary context, now this thread's."""
    cu("cuInit", 0)
    context = cu("cuDevicePrimaryCtxRetain", device)
    cu("cuCtxPushCurrent", context)
    return context


def pinned(size: int) -> npt.NDArray[np.uint8]:
    """Page-locked bytes."""
    address = cu("cuMemHostAlloc", size, 0)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(int(address)), np.uint8)


def on_device(array: npt.NDArray[Any]) -> int:
    """The address of a copy of an array."""
    address = cu("cuMemAlloc", array.nbytes)
    cu("cuMemcpyHtoD", address, array.ctypes.data, array.nbytes)
    return int(address)


class RowsKernel:
    """rows_from_frames over these frames, not started; `rows_out` is (N, rows, 6) float32 of the device."""

    def __init__(self, frames: npt.NDArray[np.uint8], conf: float, iou: float, rows: int) -> None:
        self.function = cu("cuModuleGetFunction", cu("cuModuleLoadData", b"any image"), b"rows_from_frames")
        self.shape, self.frame_bytes = (len(frames), rows, 6), frames[0].nbytes
        self.frames, self.thresholds = on_device(frames), on_device(np.array([conf, iou], np.float32))
        self.rows_out = int(cu("cuMemAlloc", 4 * len(frames) * rows * 6))
        self.unconverged = int(cu("cuMemAlloc", 4 * len(frames)))

    def start(self, stream: Any, *, wait_cycles: int = 0) -> None:
        """Gives it to a stream."""
        batch, rows, _ = self.shape
        values = (
            self.frames, self.thresholds, self.thresholds + 4, self.rows_out, self.unconverged,
            self.frame_bytes, rows, wait_cycles,
        )  # fmt: skip
        grid = (-(-rows // 128), batch, 1)
        cu("cuLaunchKernel", self.function, *grid, 128, 1, 1, 0, stream, (values, _ROWS_TYPES), 0)

    def answer(self) -> npt.NDArray[np.float32]:
        """The rows on the device as they are now."""
        found = np.empty(self.shape, np.float32)
        cu("cuMemcpyDtoH", found.ctypes.data, self.rows_out, found.nbytes)
        return found
