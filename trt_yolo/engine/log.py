"""What TensorRT logs; and a runtime or a builder that has really started.

Enters: a `Library`. Leaves: a runtime, a builder, or an error in one line. Where CUDA does not start, TensorRT 11 logs
errors and returns an object all the same, whose next use is a segmentation fault, and its end too: so the driver is
asked before TensorRT is, and the log is read before the object is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trt_yolo.engine.library import INSTALL, Library
from trt_yolo.errors import BackendError, MissingDependencyError
from trt_yolo.hardware.gpus import cuda_version

if TYPE_CHECKING:
    import tensorrt

ERROR, INFO = 1, 3
_KEPT = 64
_MOST_CHARACTERS = 400
# RTX says these of every build on a machine without a GPU; they are no news to anyone
_NOISE = ("Thread context has not been set", "unsupported in TensorRT-RTX")


class Log:
    """TensorRT's log.

    Attributes:
        library: The TensorRT that writes it.
        errors: The last errors, the oldest first.
        logger: What TensorRT is given. Whatever is made with it needs it: keep the log as long.

    Args:
        library: A TensorRT.
        told: Called with the severity (0 fatal to 4 verbose) and the text of each line, on any thread.
    """

    def __init__(self, library: Library, told: Callable[[int, str], None] | None = None) -> None:
        self.library = library
        self.errors: list[str] = []
        self._told = told
        self.logger = self._logger()

    def _logger(self) -> tensorrt.ILogger:
        trt, take = self.library.trt, self._take

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
                take(int(severity), msg)

        return Logger()

    def _take(self, severity: int, text: str) -> None:
        if any(noise in text for noise in _NOISE):
            severity = INFO
        if severity <= ERROR:
            self.errors.append(text)
            del self.errors[:-_KEPT]
        if self._told is not None:
            self._told(severity, text)


def in_one_line(messages: Sequence[str]) -> str:
    """The first of TensorRT's messages, in one line; those after it follow from it."""
    text = " ".join(messages[0].split()) if messages else "it does not say why"
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " ..."


def started_runtime(log: Log) -> tensorrt.Runtime:
    """A runtime that works.

    Raises:
        BackendError: The driver is missing or too old, or CUDA does not start; the line says what to do.
    """
    check_driver(log.library)
    runtime = log.library.trt.Runtime(log.logger)
    _check_started(log, runtime)
    return runtime


def started_builder(log: Log) -> tensorrt.Builder:
    """A builder that works. TensorRT for RTX builds without a driver: it is not asked for one.

    Raises:
        BackendError: As for a runtime.
        MissingDependencyError: The lean runtime, which builds nothing.
    """
    library = log.library
    if library.lean:
        raise MissingDependencyError(
            f"{library.name} {library.version} runs engines and builds none; {INSTALL['tensorrt']}"
        )
    if library.family == "tensorrt":
        check_driver(library)
    builder = library.trt.Builder(log.logger)
    _check_started(log, builder)
    return builder


def check_driver(library: Library) -> None:
    """Refuses a driver that is older than the CUDA of a TensorRT. Minor versions are compatible: CUDA's promise.

    Raises:
        BackendError: There is no driver, or its CUDA is of an earlier major version.
    """
    needed, version = library.cuda, cuda_version()
    if not needed or int(version.partition(".")[0] or 0) >= needed:
        return
    who = f"{library.name} {library.version} was built for CUDA {needed}"
    if not version:
        raise BackendError(
            f"{who}, and no NVIDIA driver answers here; install one for CUDA {needed} or later"
        )
    older = library.package.replace(f"cu{needed}", f"cu{version.partition('.')[0]}")
    raise BackendError(
        f"{who}, and the NVIDIA driver here takes CUDA {version}; update the driver, "
        f"or pip uninstall {library.package}, then pip install {older}"
    )


def _check_started(log: Log, made: object) -> None:
    if made is not None and not log.errors:
        return
    if made is not None:  # half an object, whose destructor too is a segmentation fault: it must never run
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
    library = log.library
    raise BackendError(
        f"{library.name} {library.version} does not start: {in_one_line(log.errors)}; "
        "trt-yolo doctor says which driver and GPU answer"
    )
