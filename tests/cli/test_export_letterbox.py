"""`--letterbox gpu` from the export to every command that takes a model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.commands import Command, assert_one_error
from trt_yolo.demo.scenes import scene

NAME = "demo-from300x400.onnx"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of 300x400, and one of another size."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(2):
        frame = np.full((300, 400, 3), 90, np.uint8)
        frame[20:276, 30:286] = scene(index).image_bgr
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    cv2.imwrite(str(folder / "2.png"), np.zeros((400, 300, 3), np.uint8))
    return folder


@pytest.fixture
def camera_onnx(tmp_path: Path, cli: Command) -> str:
    done = cli("export", "--letterbox", "gpu", "--source-size", "300x400", "--out", str(tmp_path))
    assert done.code == 0, done.err
    assert "300x400 as they come" in done.out
    return str(tmp_path / NAME)


def test_predict(camera_onnx: str, photos: Path, cli: Command, demo_onnx: Path) -> None:
    done = cli("predict", camera_onnx, str(photos), "--json")
    assert done.code == 1
    assert "2.png is 400x300 pixels, and this model takes frames of 300x400 alone" in done.err
    assert "1 of 3 images could not be read" in done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(one["path"]).name for one in found] == ["0.png", "1.png"]
    wanted = cli("predict", str(demo_onnx), str(photos / "0.png"), "--json")
    (reference,) = [json.loads(line) for line in wanted.out.splitlines()]
    assert len(found[0]["detections"]) == len(reference["detections"]) > 3


def test_bench(camera_onnx: str, cli: Command) -> None:
    """Where nobody gives images, it makes frames of the size that the model takes."""
    done = cli("bench", camera_onnx, "single-stream", "--duration", "0.2", "--min-count", "20", "--json")
    assert done.code == 0, done.err
    assert "demo scenes as frames of 300x400" in done.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--letterbox", "gpu"], ["takes frames of one size", "--source-size, such as 1080x1920"]),
        (["--source-size", "300x400"], ["--source-size 300x400 is for --letterbox gpu"]),
        (["--letterbox", "tpu"], ["--letterbox 'tpu' does not exist; give cpu or gpu"]),
        (["--letterbox", "gpu", "--source-size", "huge"], ["--source-size 'huge' is no frame size"]),
        (["--letterbox", "gpu", "--source-size", "9x9", "--head"], ["a head graph has no letterbox"]),
    ],
)
def test_what_is_refused(arguments: list[str], parts: list[str], tmp_path: Path, cli: Command) -> None:
    assert_one_error(cli("export", *arguments, "--out", str(tmp_path / "new")), *parts)
    assert not (tmp_path / "new").exists()


def test_commands_that_need_letterboxed_frames(
    camera_onnx: str, demo_onnx: Path, photos: Path, tmp_path: Path, cli: Command
) -> None:
    without = "without --letterbox gpu"
    (tmp_path / "data.yaml").write_text(f"path: {photos}\ntrain: .\nval: .\nnames: [a]\n")
    assert_one_error(cli("val", camera_onnx, "--data", str(tmp_path / "data.yaml")), without)
    assert_one_error(cli("bench", camera_onnx, "--runtime"), without)
    data = ("--data", str(photos / "0.png"))
    assert_one_error(cli("bench", camera_onnx, "offline", "--peers", "onnxruntime", *data), without)
    again = ("--letterbox", "gpu", "--source-size", "300x400", "--format", "engine")
    assert_one_error(cli("export", str(demo_onnx), *again), "--letterbox gpu would change the graph")
