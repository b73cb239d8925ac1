"""The CUDA binding that is used: cuda-bindings, or pycuda behind the same small interface.

Both retain the device's primary context, so a program that uses the primary context itself shares it. Knows which
packages are installed; imports one only when it is asked for.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError, MissingDependencyError, on_one_line
from trt_yolo.hardware.gpus import cuda_version

VARIABLE = "TRT_YOLO_CUDA"
_ASKED, _DEFAULT = f"{VARIABLE} asks for it", "the default"

_log = logging.getLogger(__name__)


class Stream(Protocol):
    """A CUDA stream; `handle` is its address, as TensorRT and ONNX Runtime take it."""

    handle: int


class Event(Protocol):
    """A CUDA event."""

    def record(self, stream: Any) -> object:
        """Happens when the stream has done all that it was given so far."""

    def query(self) -> bool:
        """Whether it has happened."""

    def synchronize(self) -> object:
        """Waits until it has happened."""


class _Binding(Protocol):
    """What `Gpu` asks of a binding, of one device. What allocates, copies or enqueues needs the context to be current.

    Attributes:
        name: The package.
        can_capture: Whether it has CUDA graphs.
        Error: What its calls raise.
        MemoryError: What they raise where device memory runs out; an `Error`.
    """

    name: str
    can_capture: bool
    Error: type[Exception]
    MemoryError: type[Exception]

    def count(self) -> int:
        """Starts the driver; the number of devices."""

    def retain(self, index: int) -> None:
        """Retains the primary context of a device; does not make it current."""

    def device_name(self) -> str:
        """As the driver calls it."""

    def is_integrated(self) -> bool:
        """Whether the device shares the processor's memory."""

    def can_map(self) -> bool:
        """Whether it can address page-locked memory of the processor."""

    def push(self) -> None:
        """Makes the context current on this thread."""

    def pop(self) -> None:
        """Makes the one before it current again."""

    def synchronize(self) -> None:
        """Waits for all work of the context; raises where the context is broken."""

    def close(self) -> None:
        """Frees what was allocated and releases the context; the context is not current. Raises nothing."""

    def ignore_captures_elsewhere(self) -> None:
        """Lets this thread allocate while another captures a graph in CUDA's global mode, and breaks none of it."""

    def stream(self) -> Stream:
        """A new stream, which does not wait for the default stream."""

    def event(self, *, blocking: bool) -> Event:
        """A new event without timing; blocking: who waits for it sleeps."""

    def allocate(self, size: int) -> Any:
        """Bytes of device memory, until `close`; its address is `int` of it."""

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of device memory."""

    def pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A page-locked array, until `close`."""

    def copy_in(self, address: int, array: npt.NDArray[Any], stream: Any) -> None:
        """Enqueues a copy to the device."""

    def copy_out(self, array: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Enqueues a copy from the device."""

    def register(self, memory: npt.NDArray[np.uint8], *, mapped: bool) -> None:
        """Page-locks memory that is there, until `close`."""

    def mapped(self, array: npt.NDArray[Any]) -> int:
        """The device's address of registered memory."""

    def begin_capture(self, stream: Any) -> None:
        """The stream records what it is given, and runs none of it."""

    def end_capture(self, stream: Any) -> Any:
        """What it recorded, as a graph that can be launched."""

    def abandon_capture(self, stream: Any) -> None:
        """The stream records no longer. Raises nothing."""

    def launch(self, graph: Any, stream: Any) -> None:
        """Enqueues a graph."""

    def destroy(self, graph: Any) -> None:
        """Gives back a graph."""


def _cuda_bindings() -> _Binding:
    from trt_yolo.backends.cuda_bindings import CudaBindings

    return CudaBindings()


def _pycuda() -> _Binding:
    from trt_yolo.backends.pycuda_binding import Pycuda

    return Pycuda()


_OPEN: dict[str, Callable[[], _Binding]] = {"cuda-bindings": _cuda_bindings, "pycuda": _pycuda}
_MODULES = {"cuda-bindings": "cuda.bindings.driver", "pycuda": "pycuda.driver"}
_INSTALL = {"cuda-bindings": "pip install 'trt-yolo[gpu]'", "pycuda": "pip install 'trt-yolo[pycuda]'"}


def open_binding() -> _Binding:
    """The binding that `chosen_binding` names.

    Raises:
        InputError: TRT_YOLO_CUDA names none.
        MissingDependencyError: None can be used; the line says why.
    """
    name, why = chosen_binding()
    if why not in (_DEFAULT, _ASKED):
        _log.warning("CUDA is called through %s: %s", name, why)
    return _OPEN[name]()


def chosen_binding() -> tuple[str, str]:
    """Which binding is used, and why: the one that TRT_YOLO_CUDA names, else cuda-bindings, else pycuda.

    Raises:
        InputError: TRT_YOLO_CUDA names none.
        MissingDependencyError: None can be used; the line says why.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in _OPEN:
        raise InputError(f"{VARIABLE} is {wanted!r}; give {' or '.join(_OPEN)}, or leave it out")
    problems = {}
    for name in [wanted] if wanted else _OPEN:
        problems[name] = _unusable(name)
        if not problems[name]:
            instead = "; ".join(f"{other} {why}" for other, why in problems.items() if why)
            return name, _ASKED if wanted else instead or _DEFAULT
    raise MissingDependencyError(
        "running on a GPU needs a CUDA binding: "
        + "; ".join(f"{name} {why}" for name, why in problems.items())
    )


def _unusable(name: str) -> str:
    """Why a binding cannot be used here, and what to do; empty where it can."""
    try:
        importlib.import_module(_MODULES[name])
    except (ImportError, OSError, RuntimeError) as error:
        return f"does not import ({on_one_line(error)}), {_INSTALL[name]}"
    return _too_new() if name == "cuda-bindings" else ""


def _too_new() -> str:
    """Whether cuda-bindings is of a later CUDA than the driver's: minor versions are compatible, major ones not."""
    version = str(getattr(importlib.import_module("cuda.bindings"), "__version__", ""))
    ours, theirs = version.partition(".")[0], cuda_version()
    if not theirs or not ours.isdigit() or int(ours) <= int(theirs.partition(".")[0]):
        return ""
    return f"{version} is for CUDA {ours} and the driver for {theirs}, pip install 'cuda-bindings<{ours}'"
