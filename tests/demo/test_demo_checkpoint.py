"""The demo checkpoint is what it claims to be: small, and accurate on scenes it never saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import NAMES, write_yolo_dataset
from trt_yolo.graph.head_from_checkpoint import checkpoint_from_file


def test_is_small_and_named() -> None:
    assert demo_checkpoint().stat().st_size <= 7_000_000
    checkpoint = checkpoint_from_file(demo_checkpoint())
    assert checkpoint.names == NAMES
    assert checkpoint.imgsz == 256


def test_accuracy_on_held_out_scenes(tmp_path: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    data = write_yolo_dataset(tmp_path / "scenes", train=0, val=64)
    metrics = ultralytics.YOLO(demo_checkpoint()).val(
        data=str(data), imgsz=256, batch=16, workers=0, device="cpu", plots=False, verbose=False,
        project=str(tmp_path), name="val",
    )  # fmt: skip
    assert metrics.box.map >= 0.75
