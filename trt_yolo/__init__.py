"""trt-yolo: deploy YOLOv8 on NVIDIA hardware, and on a CPU with the same API.

    import trt_yolo

    report = trt_yolo.export_model("yolov8n.pt", out="engines")
    with trt_yolo.load(report.artifacts[0].path) as model:
        try:
            detections = model("street.jpg")
        except trt_yolo.ImageError as error:
            print(f"skipped: {error}")

Every error that trt-yolo raises on purpose is a `TrtYoloError`; the others here are those that a program answers
differently. `trt_yolo.errors` draws the whole tree.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trt_yolo.version import __version__

if TYPE_CHECKING:
    from trt_yolo.detections import Detections
    from trt_yolo.errors import (
        BackendError,
        ClosedError,
        DeviceError,
        DownloadError,
        EngineError,
        ExportError,
        FrameError,
        ImageError,
        InputError,
        MissingDependencyError,
        TrtYoloError,
        WorkerError,
    )
    from trt_yolo.export.onnx_from_model import export_model
    from trt_yolo.loader import load
    from trt_yolo.runtime.model import Model
    from trt_yolo.runtime.results import Result
    from trt_yolo.runtime.stats import Stats

__all__ = [  # noqa: RUF022  by what they are for
    "load", "export_model", "Model", "Detections", "Result", "Stats",
    "TrtYoloError", "InputError", "ImageError", "EngineError", "MissingDependencyError", "DownloadError",
    "ExportError", "BackendError", "DeviceError", "WorkerError", "FrameError", "ClosedError",
    "__version__",
]  # fmt: skip

_HOMES = {  # of what is no error
    "load": "trt_yolo.loader",
    "export_model": "trt_yolo.export.onnx_from_model",
    "Model": "trt_yolo.runtime.model",
    "Detections": "trt_yolo.detections",
    "Result": "trt_yolo.runtime.results",
    "Stats": "trt_yolo.runtime.stats",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "trt_yolo.errors")), name)
    raise AttributeError(f"module 'trt_yolo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
