"""How many files a reader opens who follows `model("street.jpg")` to its `Detections`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

import trt_yolo
from trt_yolo.demo.scenes import scene
from trt_yolo.media.images import write_jpeg

ROOT = Path(trt_yolo.__file__).parent
BELOW_THE_RUNTIME = 8  # media 4, vision, backends 2, detections


class Visits:
    """Files of trt_yolo whose functions run while `is_on`; not what the supervisor does now and then."""

    def __init__(self) -> None:
        self.is_on = False
        self.files: set[Path] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename) if self.is_on and event == "call" else None
        if path and path.is_relative_to(ROOT) and threading.current_thread().name != "trt-yolo-supervisor":
            self.files.add(path.relative_to(ROOT))


@pytest.fixture
def visits() -> Visits:
    return Visits()


def test_a_file_is_detected_through_at_most_10_files_of_the_runtime(
    visits: Visits, demo_onnx: Path, tmp_path: Path
) -> None:
    write_jpeg(tmp_path / "street.jpg", scene(0).image_bgr)
    threading.setprofile(visits)
    sys.setprofile(visits)
    try:
        with trt_yolo.load(demo_onnx, workers=0) as model:
            model(tmp_path / "street.jpg")  # the first call prepares what later ones find
            visits.is_on = True
            model(tmp_path / "street.jpg")
            visits.is_on = False
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    ours = {path for path in visits.files if path.parts[0] == "runtime"}
    assert len(ours) <= 10, sorted(map(str, ours))
    assert len(visits.files) <= 10 + BELOW_THE_RUNTIME, sorted(map(str, visits.files))
