"""A letterbox in the graph gives the GPU the processor's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.assertions import share_matched
from tests.gpu.conftest import need
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.backends.onnxruntime_providers import unusable
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.demo.scenes import scene
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.errors import MissingDependencyError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.hardware.gpus import Device
from trt_yolo.loader import load

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("binding")]

CAMERA = (1080, 1920)


@pytest.fixture(scope="module")
def onnx(gpu: Device, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo model, for letterboxed frames and for frames of 1080x1920, batch 1 to 4."""
    folder = tmp_path_factory.mktemp("letterbox")
    made = [
        export_model(
            demo_checkpoint(),
            out=folder,
            options=ExportOptions(batch=BatchRange(1, 4), source_hw=source_hw),
        )
        for source_hw in (None, CAMERA)
    ]
    return made[0].artifacts[0].path, made[1].artifacts[0].path


def _check(model: Path, ordinary: Path, workers: int) -> None:
    frames = []
    for index in range(8):
        frame = np.full((*CAMERA, 3), 90, np.uint8)
        frame[50:1074, 100 * index : 100 * index + 1024] = scene(index, size=1024).image_bgr
        frames.append(frame)
    with load(ordinary, provider="cpu") as reference:
        wanted = reference(frames)
    with load(model, workers=workers) as loaded:
        for _ in range(3):  # plain, captured, replayed
            found = loaded(frames)
    assert sum(map(len, wanted)) > 20
    pairs = [share_matched(one, other, iou=0.9, score=0.03) for one, other in zip(found, wanted, strict=True)]
    assert sum(close for close, _ in pairs) >= 0.95 * sum(map(len, wanted))
    assert sum(extra for _, extra in pairs) <= 0.05 * sum(map(len, wanted))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_engine(onnx: tuple[Path, Path], workers: int) -> None:
    ordinary, camera = onnx
    try:
        engine = engine_from_onnx(camera).path
    except MissingDependencyError as error:
        pytest.skip(str(error))
    problem = engine_at(engine).problem
    need(not problem, problem)
    _check(engine, ordinary, workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_onnxruntime(onnx: tuple[Path, Path], workers: int) -> None:
    if reason := unusable("cuda"):
        pytest.skip(reason)
    ordinary, camera = onnx
    _check(camera, ordinary, workers)
