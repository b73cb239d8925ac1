"""The whole way, checkpoint to detections, against what Ultralytics' predict returned on the same images."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_yolo
from tests.assertions import share_matched
from trt_yolo import Detections


@pytest.fixture(scope="session")
def reference(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "reference" / "yolov8n-val64.json").read_text())


def _wanted(entry: dict[str, Any]) -> Detections:
    found = entry["detections"]
    return Detections(
        xyxy=np.array([one["xyxy"] for one in found], np.float32).reshape(-1, 4),
        confidence=np.array([one["confidence"] for one in found], np.float32),
        class_id=np.array([one["class_id"] for one in found], np.int64),
    )


def _image_path(name: str, shared: Path) -> Path:
    path = shared / "coco" / "images" / "val" / name
    if path.exists():
        return path
    package = importlib.util.find_spec("ultralytics")
    if package is None or package.origin is None:
        pytest.skip("bus.jpg and zidane.jpg come with ultralytics, which is not installed")
    return Path(package.origin).parent / "assets" / name


def test_detections_equal_ultralytics_on_66_images(
    yolov8n_onnx: Path, shared: Path, reference: dict[str, Any]
) -> None:
    total = matched = extra = 0
    with trt_yolo.load(yolov8n_onnx) as model:
        assert len(reference["images"]) == 66
        for name, entry in reference["images"].items():
            got = model(_image_path(name, shared), conf=reference["conf"], iou=reference["iou"])
            assert list(got.image_hw) == entry["orig_shape_hw"], name
            both, alone = share_matched(got, _wanted(entry), iou=0.98, score=0.005)
            total, matched, extra = total + len(entry["detections"]), matched + both, extra + alone
    assert total > 300
    assert matched >= 0.99 * total, f"{matched} of {total} reference detections found"
    assert extra <= 0.01 * total, f"{extra} detections that Ultralytics does not have"
