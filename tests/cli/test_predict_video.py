"""`trt-yolo predict clip.mp4`."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.commands import Command, assert_one_error
from trt_yolo.demo.scenes import scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of five scenes, and an image."""
    made = tmp_path_factory.mktemp("videos")
    writer = cv2.VideoWriter(str(made / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (256, 256))
    for index in range(5):
        writer.write(scene(index).image_bgr)
    writer.release()
    cv2.imwrite(str(made / "a.png"), scene(0).image_bgr)
    return made


def test_a_line_of_json_for_each_frame(folder: Path, demo_onnx: Path, cli: Command) -> None:
    done = cli("predict", str(demo_onnx), str(folder / "a.png"), str(folder / "clip.avi"), "--json")
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert "frame" not in lines[0]
    assert [line["frame"] for line in lines[1:]] == [0, 1, 2, 3, 4]
    assert len(lines[1]["detections"]) == len(lines[0]["detections"]) > 2


def test_a_row_for_each_video(folder: Path, demo_onnx: Path, cli: Command) -> None:
    done = cli("predict", str(demo_onnx), str(folder / "clip.avi"), str(folder / "a.png"), "--workers", "1")
    assert done.code == 0
    assert f"{folder / 'clip.avi'}, 5 frames" in done.out
    assert str(folder / "a.png") in done.out


def test_drawn_frames_are_numbered(folder: Path, demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    saved = tmp_path / "drawn"
    assert cli("predict", str(demo_onnx), str(folder / "clip.avi"), "--save", str(saved)).code == 0
    names = sorted(path.name for path in (saved / "clip").iterdir())
    assert names == [f"{number:06d}.jpg" for number in range(5)]
    drawn = cv2.imread(str(saved / "clip" / "000002.jpg"))
    assert drawn is not None
    assert np.abs(drawn.astype(int) - scene(2).image_bgr).max() > 50  # boxes


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("none.mp4", None, "no such file or folder"),
        ("text.mp4", "text" * 50, "is no video that can be decoded"),
    ],
)
def test_what_is_no_video(
    name: str, content: str | None, part: str, demo_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert_one_error(cli("predict", str(demo_onnx), str(tmp_path / name)), part)


def test_decoders(folder: Path, demo_onnx: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("predict", str(demo_onnx), str(folder / "a.png"), "--decoder", "cpu").code == 0
    refused = cli("predict", str(demo_onnx), str(folder / "a.png"), "--decoder", "nvdec")
    assert_one_error(refused, "no decoder 'nvdec'; give auto, cpu, gpu")
    monkeypatch.setattr("trt_yolo.media.gpu_images.devices", list)
    absent = cli("predict", str(demo_onnx), str(folder / "a.png"), "--decoder", "gpu")
    assert_one_error(absent, "cannot be decoded on a GPU here")
