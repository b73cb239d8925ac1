"""trt-yolo: deploy YOLOv8 on NVIDIA hardware, and on a CPU with the same API.

import trt_yolo
model = trt_yolo.load("engines/yolov8n.onnx")
detections = model("street.jpg")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trt_yolo.version import __version__

if TYPE_CHECKING:
    from trt_yolo.detections import Detections
    from trt_yolo.errors import TrtYoloError
    from trt_yolo.loader import load
    from trt_yolo.runtime.model import Model

__all__ = ["Detections", "Model", "TrtYoloError", "__version__", "load"]

_HOMES = {
    "Detections": "trt_yolo.detections",
    "Model": "trt_yolo.runtime.model",
    "TrtYoloError": "trt_yolo.errors",
    "load": "trt_yolo.loader",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trt_yolo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
