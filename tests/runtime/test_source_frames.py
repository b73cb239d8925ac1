"""Frames that go into slots as the camera gives them, for a graph that letterboxes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tests.assertions import share_matched
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import scene
from trt_yolo.detections import Detections
from trt_yolo.errors import ImageError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.loader import load
from trt_yolo.runtime.process import RingOptions
from trt_yolo.runtime.ring import Payload, Ring, RingShape

Image = npt.NDArray[np.uint8]
CAMERA = (270, 480)


@pytest.fixture(scope="module")
def camera_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model for frames of 270x480, batch 1 to 4."""
    options = ExportOptions(batch=BatchRange(1, 4), source_hw=CAMERA)
    return (
        export_model(demo_checkpoint(), out=tmp_path_factory.mktemp("camera"), options=options)
        .artifacts[0]
        .path
    )


@pytest.fixture(scope="module")
def frames() -> list[Image]:
    made = []
    for index in range(12):
        frame = np.full((*CAMERA, 3), 90, np.uint8)
        frame[10:266, 5 * index : 5 * index + 256] = scene(index).image_bgr
        made.append(frame)
    return made


@pytest.fixture(scope="module")
def wanted(demo_dynamic_onnx: Path, frames: list[Image]) -> list[Detections]:
    """What the ordinary export finds, in pixels of the source."""
    with load(demo_dynamic_onnx) as model:
        return model(frames)


def _same(found: Detections, wanted: Detections) -> None:
    close, extra = share_matched(found, wanted, iou=0.95, score=0.02)
    assert (close, extra) == (len(wanted), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_detections_are_in_pixels_of_the_source(
    camera_onnx: Path, frames: list[Image], wanted: list[Detections], workers: int
) -> None:
    assert sum(map(len, wanted)) > 30
    with load(camera_onnx, workers=workers) as model:
        for one, other in zip(model(frames), wanted, strict=True):  # in batches
            _same(one, other)
        _same(model(frames[3]), wanted[3])
        _same(model.submit(frames[5]).result(), wanted[5])
        for result in model.stream(frames):
            _same(result.detections, wanted[result.index])
        assert model.stats().shared_memory_bytes >= 4 * 4 * frames[0].nbytes


def test_files_too(camera_onnx: Path, frames: list[Image], wanted: list[Detections], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), frames[2])
    with load(camera_onnx) as model:
        _same(model(tmp_path / "a.png"), wanted[2])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_frame_of_another_size_is_its_own_error(
    camera_onnx: Path, frames: list[Image], wanted: list[Detections], workers: int
) -> None:
    other = np.zeros((480, 270, 3), np.uint8)
    given = [frames[0], other, frames[1], other, frames[2]]
    with load(camera_onnx, workers=workers) as model:
        results = list(model.stream(given))
        for place, index in ((0, 0), (2, 1), (4, 2)):
            _same(results[place].detections, wanted[index])
        for place in (1, 3):
            error = results[place].error
            assert isinstance(error, ImageError)
            text = f"frame {place} is 480x270 pixels, and this model takes frames of 270x480 alone"
            assert text in str(error)
        with pytest.raises(ImageError, match="the image is 480x270 pixels"):
            model(other)
        with pytest.raises(ImageError, match="image 1 is 480x270"):
            model([frames[0], other])
        _same(model(frames[4]), wanted[4])


def test_frames_of_a_worker_that_is_killed_are_run_again(
    camera_onnx: Path, frames: list[Image], wanted: list[Detections]
) -> None:
    many = frames * 8
    with load(camera_onnx, workers=2) as model:
        for count, result in enumerate(model.stream(many)):
            if count in (20, 50):
                os.kill(model.stats().workers[count % 2].pid, signal.SIGKILL)
            assert result.error is None
            _same(result.detections, wanted[result.index % len(frames)])
        assert sum(worker.restarts for worker in model.stats().workers) >= 1


def test_the_header_says_what_lies_in_a_slot() -> None:
    manifest = Manifest(
        graph="deploy", names={0: "a"}, imgsz_hw=(64, 64), batch=BatchRange(1, 2), rows=4, anchors=84
    )
    ordinary = RingOptions(slots=2).shape(manifest)
    camera = RingOptions(slots=2).shape(
        Manifest(
            graph="deploy", names={0: "a"}, imgsz_hw=(64, 64), batch=BatchRange(1, 2), rows=4, anchors=84,
            source_hw=CAMERA,
        )
    )  # fmt: skip
    assert (ordinary.imgsz_hw, ordinary.letterboxed_hw) == ((64, 64), None)
    assert (camera.imgsz_hw, camera.letterboxed_hw) == (CAMERA, (64, 64))
    for shape, payload in ((ordinary, Payload.FRAMES), (camera, Payload.SOURCE_FRAMES)):
        assert RingShape.from_dict(shape.to_dict()) == shape
        slot = Ring.create(shape).slots[1]
        assert slot.payload == payload
        assert slot.frames.shape == (2, *shape.imgsz_hw, 3)
