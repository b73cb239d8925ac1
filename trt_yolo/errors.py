"""Everything that trt-yolo raises on purpose, in one tree.

    TrtYoloError
    ├── InputError                  what was given cannot be used: a path, an option, an array
    │   ├── ImageError              an image or a video that cannot be read
    │   ├── CheckpointError         a .pt that is damaged or is no YOLO checkpoint
    │   │   └── UnsafeCheckpointError   a .pt whose pickle names code that is not on the allow-list
    │   ├── UnsupportedModelError   a sound model of a kind that is not supported here
    │   └── EngineError             a TensorRT engine that does not load here, or is none
    ├── MissingDependencyError      a package that this work needs is not installed
    ├── DownloadError               weights that could not be fetched
    ├── ExportError                 an export that failed, or failed its check
    ├── BackendError                the backend could not load or run a model
    │   └── DeviceError             the device is lost: only a new process can go on
    ├── WorkerError                 a worker process that could not start, or too many that ended
    │   └── FrameError              a frame on which worker after worker ended
    └── ClosedError                 a model that has been closed

A message says what was given, what is needed and what to do. The command line prints it in one line and
exits with 1; any other exception is a bug in trt-yolo. What other libraries' errors say goes into such a line with
`first_line` or `on_one_line`.
"""

from __future__ import annotations


class TrtYoloError(Exception):
    """The root of all errors that trt-yolo raises on purpose."""


class InputError(TrtYoloError):
    """What was given cannot be used: a path, an option, an array."""


class ImageError(InputError):
    """An image or a video that cannot be read, or an image of an unusable shape."""


class CheckpointError(InputError):
    """A .pt file that is damaged or is no YOLO checkpoint."""


class UnsafeCheckpointError(CheckpointError):
    """A .pt file whose pickle names code that is not on the allow-list; nothing of it was run."""


class UnsupportedModelError(InputError):
    """A sound model of an architecture or task that is not supported here."""


class EngineError(InputError):
    """A TensorRT engine that does not load here: another builder, version, GPU or system, or a changed file."""


class MissingDependencyError(TrtYoloError):
    """A package that this work needs is not installed."""


class DownloadError(TrtYoloError):
    """Weights that could not be fetched."""


class ExportError(TrtYoloError):
    """An export that failed, or whose result failed its check; no artifact was left."""


class BackendError(TrtYoloError):
    """A backend that could not load or run a model."""


class DeviceError(BackendError):
    """A device that is lost to this process: a worker that raises it is replaced."""


class WorkerError(TrtYoloError):
    """A worker process that could not start, or too many that ended."""


class FrameError(WorkerError):
    """A frame on which worker after worker ended; it is not tried again."""


class ClosedError(TrtYoloError):
    """A model that has been closed; what was not answered by then never will be."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says; where it says nothing, its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def on_one_line(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters; where it says nothing, its class."""
    return " ".join(str(error).split())[:200] or type(error).__name__
