"""`trt-yolo predict clip.mp4`."""

from __future__ import annotations

import json
import shutil
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


def test_sources_keep_their_order(folder: Path, demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    """Given one by one, as a folder and as a pattern."""
    other = tmp_path / "other.avi"
    shutil.copy(folder / "clip.avi", other)
    a, clip = folder / "a.png", folder / "clip.avi"
    for sources, wanted in (
        ([other, a, clip, a], [*[other] * 5, a, *[clip] * 5, a]),
        ([other, folder], [*[other] * 5, a, *[clip] * 5]),
        ([tmp_path / "*.avi", a], [*[other] * 5, a]),
    ):
        done = cli("predict", str(demo_onnx), *map(str, sources), "--json")
        assert (done.code, done.err) == (0, "")
        lines = [json.loads(line) for line in done.out.splitlines()]
        assert [line["path"] for line in lines] == [str(path) for path in wanted]
        frames = [line["frame"] for line in lines if line["path"] == str(other)]
        assert frames == [0, 1, 2, 3, 4]


def test_a_bad_video_is_one_line_and_the_rest_goes_on(
    folder: Path, demo_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    bad, cut = tmp_path / "text.mp4", tmp_path / "cut.avi"
    bad.write_text("text" * 50)
    whole = (folder / "clip.avi").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    sources = [bad, folder / "a.png", cut, folder / "clip.avi"]
    arguments = ["predict", str(demo_onnx), *map(str, sources), "--save", str(tmp_path / "drawn")]
    done = cli(*arguments)
    assert done.code == 1
    lines = done.err.splitlines()
    assert [line.startswith("warning: ") for line in lines] == [True] * 3, done.err
    assert str(bad) in lines[0]
    assert str(cut) in lines[1]
    assert "2 of the images, videos and frames could not be read or drawn" in lines[2]
    assert str(folder / "a.png") in done.out
    assert f"{folder / 'clip.avi'}, 5 frames" in done.out
    assert len(list((tmp_path / "drawn" / "clip").iterdir())) == 5
    assert not (tmp_path / "drawn" / "text").exists()


def test_drawings_of_videos_of_one_name(folder: Path, demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    """Beside a picture that is called like one, and a source where the frames of another would go."""
    drawn = tmp_path / "drawn"
    videos = [tmp_path / "1" / "clip.avi", tmp_path / "2" / "clip.avi", tmp_path / "a.jpg.avi"]
    for video in videos:
        video.parent.mkdir(exist_ok=True)
        shutil.copy(folder / "clip.avi", video)
    source = drawn / "clip" / "000000.jpg"
    source.parent.mkdir(parents=True)
    shutil.copy(folder / "a.png", source)
    arguments = [*videos, tmp_path / "a.jpg", source]
    shutil.copy(folder / "a.png", tmp_path / "a.jpg")
    done = cli("predict", str(demo_onnx), *map(str, arguments), "--save", str(drawn))
    assert (done.code, done.err) == (0, "")
    assert source.read_bytes() == (folder / "a.png").read_bytes()
    files = {path.name: len(list(path.iterdir())) if path.is_dir() else 0 for path in drawn.iterdir()}
    assert files == {"clip": 1, "clip_1": 5, "clip_2": 5, "a.jpg": 5, "a_1.jpg": 0, "000000.jpg": 0}


def test_what_is_no_video(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    assert_one_error(cli("predict", str(demo_onnx), str(tmp_path / "none.mp4")), "no such file or folder")


def test_decoders(folder: Path, demo_onnx: Path, cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("predict", str(demo_onnx), str(folder / "a.png"), "--decoder", "cpu").code == 0
    refused = cli("predict", str(demo_onnx), str(folder / "a.png"), "--decoder", "nvdec")
    assert_one_error(refused, "no decoder 'nvdec'; give auto, cpu, gpu")
    monkeypatch.setattr("trt_yolo.media.decoders.devices", list)
    absent = cli("predict", str(demo_onnx), str(folder / "a.png"), "--decoder", "gpu")
    assert_one_error(absent, "cannot be decoded on a GPU here")
