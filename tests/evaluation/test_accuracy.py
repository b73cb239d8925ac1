"""The accuracy of yolov8n on 64 COCO images against what `yolo val` says, and evaluation in its parts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ImageError, InputError
from trt_yolo.evaluation.accuracy import evaluate, samples, truth_from_labels
from trt_yolo.evaluation.dataset import Labels, dataset_from_yaml, labels_of_all
from trt_yolo.evaluation.head_runner import HeadRunner

REFERENCE_MAP50_95, REFERENCE_MAP50 = 0.4451, 0.5972  # `yolo val`, ../shared/data/SOURCES.md
TOLERANCE = 0.003
NO_LABELS = Labels(boxes_cxcywhn=np.zeros((0, 4), np.float32), class_id=np.zeros(0, np.int64))


@pytest.mark.parametrize("kind", ["pt", pytest.param("deploy", marks=pytest.mark.slow)])
def test_yolov8n_scores_what_yolo_val_says(
    kind: str, yolov8n: Path, shared: Path, yolov8n_onnx: Path
) -> None:
    dataset = dataset_from_yaml(shared / "coco" / "coco.yaml", split="val")
    labels = labels_of_all(dataset)
    with HeadRunner(yolov8n if kind == "pt" else yolov8n_onnx, threads=2) as runner:
        got = evaluate(runner, samples(dataset.images, labels, runner.manifest.imgsz_hw))
    assert got.map50_95 == pytest.approx(REFERENCE_MAP50_95, abs=TOLERANCE)
    assert got.map50 == pytest.approx(REFERENCE_MAP50, abs=TOLERANCE)
    assert (got.images, got.instances) == (64, 440)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Labels]]:
    """Six demo scenes, enlarged and not square, and their labels."""
    folder = tmp_path_factory.mktemp("scenes")
    images, labels = [], []
    for index in range(6):
        drawn = scene(index)
        images.append(folder / f"{index}.png")
        cv2.imwrite(str(images[-1]), cv2.resize(drawn.image_bgr, (400, 300)))
        boxes = np.asarray(drawn.boxes_xyxy, np.float32) / 256
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        class_id = np.asarray(drawn.class_id, np.int64)
        labels.append(Labels(boxes_cxcywhn=np.concatenate([centre, size], axis=1), class_id=class_id))
    return images, labels


@pytest.fixture(scope="module")
def runner() -> HeadRunner:
    return HeadRunner(demo_checkpoint(), threads=1)


def test_samples_in_a_list_score_the_same_again_and_again(
    scenes: tuple[list[Path], list[Labels]], runner: HeadRunner, demo_static4_onnx: Path
) -> None:
    kept = list(samples(*scenes, (256, 256)))
    done: list[int] = []
    first = evaluate(runner, kept, progress=lambda _, count, _total: done.append(count))
    assert first.map50 > 0.5
    assert done == [1, 2, 3, 4, 5, 6]
    assert evaluate(runner, kept) == first
    with HeadRunner(demo_static4_onnx, threads=1) as of_four:
        done.clear()
        second = evaluate(of_four, kept, progress=lambda _, count, _total: done.append(count))
    assert done == [4, 6]
    assert second.map50_95 == pytest.approx(first.map50_95, abs=0.01)


def test_labels_that_are_moved_score_less(
    scenes: tuple[list[Path], list[Labels]], runner: HeadRunner
) -> None:
    images, labels = scenes
    moved = [Labels(one.boxes_cxcywhn + np.float32(0.1), one.class_id) for one in labels]
    assert evaluate(runner, samples(images, moved, (256, 256))).map50 < 0.3


def test_images_that_cannot_be_read_are_left_out(
    scenes: tuple[list[Path], list[Labels]], runner: HeadRunner, tmp_path: Path
) -> None:
    images, labels = scenes
    (tmp_path / "text.jpg").write_text("no image")
    skipped: list[str] = []
    with_bad = samples([tmp_path / "text.jpg", *images], [labels[0], *labels], (256, 256), skipped=skipped)
    assert evaluate(runner, with_bad) == evaluate(runner, samples(images, labels, (256, 256)))
    (message,) = skipped
    assert "text.jpg is no image" in message
    with pytest.raises(ImageError, match=r"text\.jpg"):
        list(samples([tmp_path / "text.jpg"], labels[:1], (256, 256)))


def test_nothing_to_measure_with(scenes: tuple[list[Path], list[Labels]], runner: HeadRunner) -> None:
    with pytest.raises(InputError, match="no image to measure accuracy with"):
        evaluate(runner, [])
    with pytest.raises(InputError, match="the labels of the 2 images have no object"):
        evaluate(runner, samples(scenes[0][:2], [NO_LABELS] * 2, (256, 256)))


def test_truth_is_in_pixels_of_the_source() -> None:
    labels = Labels(np.array([[0.5, 0.25, 0.5, 0.1]], np.float32), np.array([3]))
    truth = truth_from_labels(labels, (200, 400))
    np.testing.assert_allclose(truth.boxes_xyxy, [[100, 40, 300, 60]], rtol=1e-6)
    assert truth.class_id.tolist() == [3]
    assert truth_from_labels(NO_LABELS, (200, 400)).boxes_xyxy.shape == (0, 4)
