"""A model that is one small kernel, on the real GPU backend: what it answers can be checked byte for byte.

The kernel (`rows_from_frames.cu`) is compiled by NVRTC when the backend starts. cuda-bindings launches it, whichever
binding the backend itself uses: both have the primary context. `rows_rule.py` says what it must answer.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.manifest import Manifest, manifest_from_json
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.gpu import GpuBackend
from trt_yolo.backends.gpu_lane import Execution

SOURCE = Path(__file__).with_name("rows_from_frames.cu")
ROWS, SIDE, CLASSES = 64, 256, 16
IMAGE = "TRT_YOLO_KERNEL_IMAGE"
_BLOCK = 128
_CYCLES_OF_US = 1500  # near 1.5 GHz: how long a wait is need not be exact
_KINDS = (*[ctypes.c_void_p] * 5, ctypes.c_int, ctypes.c_int, ctypes.c_longlong)


def kernel_manifest(smallest: int = 1, largest: int = 16) -> Manifest:
    """A model of 256x256 pixels whose batches lie in that range."""
    return Manifest(
        graph="deploy",
        names={index: str(index) for index in range(CLASSES)},
        imgsz_hw=(SIDE, SIDE),
        batch=BatchRange(smallest, largest),
        rows=ROWS,
        anchors=1344,
    )


class KernelBackend(GpuBackend):
    """The kernel as a model.

    Args:
        manifest: As `Manifest.to_json` writes it.
        wait_us: How long a batch takes, about, in microseconds.
    """

    def __init__(
        self,
        manifest: str,
        *,
        wait_us: int = 0,
        device: int = 0,
        streams: int = 2,
        graphs: bool = True,
        spin: bool = False,
    ) -> None:
        self._known = manifest_from_json(manifest, origin="the manifest")
        self._wait_cycles = wait_us * _CYCLES_OF_US
        self._module: Any = None
        super().__init__(device=device, streams=streams, graphs=graphs, spin=spin)

    def _load(self) -> Manifest:
        from cuda.bindings import driver

        given = os.environ.get(IMAGE)  # from a rehearsal: NVRTC crashes where the driver is a stand-in
        image = Path(given).read_bytes() if given else compiled(_capability(driver, self.gpu.index))
        self._module = _checked(driver.cuModuleLoadData(image))
        self._function = _checked(driver.cuModuleGetFunction(self._module, b"rows_from_frames"))
        return self._known

    def _execution(self, stream: Any) -> Execution:
        return _Launch(self._function, stream, self._known, self._wait_cycles)

    def _unload(self) -> None:
        from cuda.bindings import driver

        if self._module is not None:
            driver.cuModuleUnload(self._module)


class _Launch(Execution):
    def __init__(self, function: Any, stream: Any, manifest: Manifest, wait_cycles: int) -> None:
        from cuda.bindings import driver

        self._driver, self._function = driver, function
        self._stream = driver.CUstream(stream.handle)
        self._frame_bytes, self._rows = int(np.prod((*manifest.frame_hw, 3))), manifest.rows
        self._wait_cycles = wait_cycles

    def prepared(self, batch: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """See `Execution`."""
        names = ("frames", "conf", "iou", "detections", "unconverged")
        values = (*(addresses[name] for name in names), self._frame_bytes, self._rows, self._wait_cycles)
        grid = (-(-self._rows // _BLOCK), batch, 1)

        def enqueue() -> None:
            _checked(
                self._driver.cuLaunchKernel(
                    self._function, *grid, _BLOCK, 1, 1, 0, self._stream, (values, _KINDS), 0
                )
            )

        return enqueue

    def run_head(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Execution`; it is no head graph."""
        raise NotImplementedError


def compiled(capability: int, source: Path = SOURCE) -> bytes:
    """The machine code of a kernel's source for a compute capability such as 90."""
    from cuda.bindings import nvrtc

    program = _checked(nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    error, *_ = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture=sm_{capability}".encode()])
    if int(error):
        log = _room(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"{source.name} does not compile: {' '.join(log.decode().split())}")
    code = _room(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    return code


def _room(size: int) -> bytes:
    """Bytes that a library may write to: one byte alone is an object that all of Python shares."""
    return bytes(max(2, size))


def _capability(driver: Any, index: int) -> int:
    kinds = driver.CUdevice_attribute
    device = _checked(driver.cuDeviceGet(index))
    major, minor = (
        _checked(driver.cuDeviceGetAttribute(kind, device))
        for kind in (
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    return int(10 * major + minor)


class KernelError(Exception):
    """The driver refused a call of the kernel's."""


def _checked(answer: Any) -> Any:
    error, *found = answer
    if int(error):
        raise KernelError(error.name)
    return found[0] if found else None
