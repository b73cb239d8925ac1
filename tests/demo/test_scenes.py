"""Generated scenes: the same for the same number, labels that fit, glyphs never shared between splits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trt_yolo.demo.scenes import Split, scene, write_yolo_dataset
from trt_yolo.media.images import read_image


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("size", [128, 256, 640])
def test_labels_fit_the_image(split: Split, size: int) -> None:
    for index in range(5):
        one = scene(index, split=split, size=size)
        assert one.image_bgr.shape == (size, size, 3)
        assert one.image_bgr.dtype == np.uint8
        assert 1 <= len(one.boxes_xyxy) == len(one.class_id) <= 10
        assert (one.boxes_xyxy >= 0).all()
        assert (one.boxes_xyxy <= size).all()
        assert (one.boxes_xyxy[:, 2:] > one.boxes_xyxy[:, :2]).all()
        assert set(one.class_id.tolist()) <= set(range(10))


def test_same_number_same_scene() -> None:
    first, second, other = scene(7), scene(7), scene(8)
    np.testing.assert_array_equal(first.image_bgr, second.image_bgr)
    np.testing.assert_array_equal(first.boxes_xyxy, second.boxes_xyxy)
    assert not np.array_equal(first.image_bgr, other.image_bgr)
    assert not np.array_equal(first.image_bgr, scene(7, split="train").image_bgr)


def test_every_digit_occurs() -> None:
    seen = np.concatenate([scene(index).class_id for index in range(30)])
    assert set(seen.tolist()) == set(range(10))


def test_dataset_on_disk_is_what_the_scenes_say(tmp_path: Path) -> None:
    data = write_yolo_dataset(tmp_path, train=2, val=3, size=128)
    assert "train: images/train" in data.read_text()
    assert len(list((tmp_path / "images" / "train").iterdir())) == 2
    for index in range(3):
        one = scene(index, size=128)
        image = read_image(tmp_path / "images" / "val" / f"{index:05d}.jpg")
        assert np.abs(image.astype(int) - one.image_bgr).mean() < 12, "JPEG of another scene"
        lines = (tmp_path / "labels" / "val" / f"{index:05d}.txt").read_text().splitlines()
        label = np.array([line.split() for line in lines], float)
        np.testing.assert_array_equal(label[:, 0], one.class_id)
        corners = np.concatenate([label[:, 1:3] - label[:, 3:] / 2, label[:, 1:3] + label[:, 3:] / 2], axis=1)
        np.testing.assert_allclose(corners * 128, one.boxes_xyxy, atol=1e-3)


def test_command_writes_scenes_and_writes_over_no_other_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trt_yolo.demo", str(tmp_path / "scenes"), "--count", "2"]
    for _ in range(2):
        subprocess.run(command, check=True, timeout=60)
    assert len(list((tmp_path / "scenes" / "images" / "val").glob("*.jpg"))) == 2
    (tmp_path / "scenes" / "data.yaml").write_text("the user's own")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "holds files that are not the demo's; give a new folder" in refused.stderr
    assert (tmp_path / "scenes" / "data.yaml").read_text() == "the user's own"


def test_command_says_in_one_line_that_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "trt_yolo.demo", str(tmp_path / "file")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert refused.stderr.endswith(
        f"cannot write to {tmp_path / 'file'}: Not a directory; give another folder\n"
    )
