"""mAP by hand, against COCO's definition written out, and against Ultralytics' own arithmetic."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo.errors import MissingDependencyError
from trt_yolo.evaluation.coco import Truth, coco_map

Rows = npt.NDArray[np.float32]

NAMES = {0: "cat", 1: "dog", 2: "owl"}
BOX = (10, 10, 110, 110)
IOU_78 = (10, 10, 110, 88)  # its IoU with BOX
LIMITS = np.linspace(0.5, 0.95, 10)


def _truth(*objects: tuple[Any, ...]) -> Truth:
    """Of `x1 y1 x2 y2 class`."""
    array = np.array(objects, np.float32).reshape(-1, 5)
    return Truth(boxes_xyxy=array[:, :4], class_id=array[:, 4].astype(np.int64))


def _rows(*detections: tuple[Any, ...]) -> Rows:
    return np.array(detections, np.float32).reshape(-1, 6)


@pytest.mark.parametrize(
    ("truth", "rows", "map50_95", "map50"),
    [
        pytest.param(_truth((*BOX, 0)), _rows(), 0, 0, id="nothing-found"),
        pytest.param(_truth((*BOX, 0)), _rows((*BOX, 0.9, 1)), 0, 0, id="of-another-class"),
        pytest.param(_truth((*BOX, 0)), _rows((*BOX, 0.9, 0)), 1, 1, id="found"),
        pytest.param(_truth((*BOX, 0)), _rows((*IOU_78, 0.9, 0)), 0.6, 1, id="found-at-6-of-10-limits"),
        pytest.param(_truth((*BOX, 0)), _rows((*BOX, 0.9, 0), (0, 0, 9, 9, 0.8, 0)), 1, 1, id="worse-false"),
        pytest.param(_truth((*BOX, 0)), _rows((*BOX, 0.8, 0), (0, 0, 9, 9, 0.9, 0)), 0.5, 0.5, id="better-false"),
        pytest.param(_truth((*BOX, 0), (*BOX, 1)), _rows((*BOX, 0.9, 0)), 0.5, 0.5, id="one-class-of-two"),
        pytest.param(_truth((*BOX, 0)), _rows((*BOX, 0.9, 0), (*BOX, 0.9, 2)), 1, 1, id="false-of-a-class-unseen"),
        pytest.param(_truth(), _rows((*BOX, 0.9, 0)), 0, 0, id="no-objects"),
        pytest.param(_truth((*BOX, 0), (200, 200, 300, 300, 0)), _rows((*BOX, 0.9, 0)), 51 / 101, 51 / 101, id="half"),
    ],
)  # fmt: skip
def test_coco_by_hand(truth: Truth, rows: Rows, map50_95: float, map50: float) -> None:
    got = coco_map([truth], [rows], names=NAMES, integration="coco")
    assert (got.map50_95, got.map50) == (pytest.approx(map50_95), pytest.approx(map50))
    assert (got.images, got.instances) == (1, len(truth.class_id))
    assert sorted(got.per_class) == sorted(set(truth.class_id.tolist()))


def test_all_found_is_1_for_coco_and_less_for_yolo_val() -> None:
    truths, rows = [_truth((*BOX, 0))], [_rows((*BOX, 0.9, 0))]
    assert coco_map(truths, rows, names=NAMES, integration="coco").map50 == 1
    assert coco_map(truths, rows, names=NAMES).map50 == pytest.approx(0.995)


def test_classes_by_hand() -> None:
    truths = [_truth((*BOX, 0), (*BOX, 2)), _truth((*BOX, 2)), _truth()]
    rows = [_rows((*BOX, 0.9, 2)), _rows((*IOU_78, 0.7, 2)), _rows((*BOX, 0.1, 1))]
    got = coco_map(truths, rows, names=NAMES, integration="coco")
    assert {index: one.instances for index, one in got.per_class.items()} == {0: 1, 2: 2}
    assert got.per_class[0].map50_95 == 0
    assert got.per_class[2].map50 == 1
    assert got.per_class[2].map50_95 == pytest.approx(0.6 + 0.4 * 51 / 101)
    assert got.map50 == pytest.approx(0.5)
    assert (got.images, got.instances) == (3, 3)


def _random_case(seed: int) -> tuple[list[Truth], list[Rows]]:
    """40 images of three classes: most objects found, more or less exactly, some twice, and false ones."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(40):
        count = int(rng.integers(0, 6))
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.hstack([corner, corner + rng.uniform(20, 200, (count, 2))]).astype(np.float32)
        class_id = rng.integers(0, 3, count)
        truths.append(Truth(boxes_xyxy=boxes, class_id=class_id))
        chosen = rng.integers(0, count, int(rng.integers(0, 9))) if count else np.zeros(0, np.int64)
        near = boxes[chosen] + rng.normal(0, 6, (len(chosen), 4))
        kind = np.where(rng.random(len(chosen)) < 0.8, class_id[chosen], rng.integers(0, 3, len(chosen)))
        found = np.column_stack([near, rng.random(len(chosen)), kind]).reshape(-1, 6)
        predictions.append(found[np.argsort(-found[:, 4])].astype(np.float32))
    return truths, predictions


def _iou(truth: Truth, rows: Rows) -> npt.NDArray[np.float64]:
    """(objects, detections)."""
    first, second = truth.boxes_xyxy[:, None].astype(float), rows[None, :, :4].astype(float)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    inner = np.maximum(sides, 0).prod(axis=-1)
    area = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (first, second)]
    return inner / (area[0] + area[1] - inner)


def _plain_hits(truth: Truth, rows: Rows, limit: float) -> list[bool]:
    """Each detection, best first, takes the free object of its class that it overlaps most."""
    overlap, taken, hits = _iou(truth, rows), set[int](), []
    for position, class_id in enumerate(rows[:, 5]):
        free = [
            index for index in range(len(truth.class_id))
            if index not in taken and truth.class_id[index] == class_id and overlap[index, position] >= limit
        ]  # fmt: skip
        hits.append(bool(free))
        if free:
            taken.add(max(free, key=lambda index: overlap[index, position]))
    return hits


def _plain_ap(truths: list[Truth], predictions: list[Rows], class_id: int, limit: float) -> float:
    """COCO's definition: at 101 recalls, the best precision at that recall or above; their mean."""
    count = sum(int((truth.class_id == class_id).sum()) for truth in truths)
    scored = sorted(
        ((row[4], hit) for truth, rows in zip(truths, predictions, strict=True)
         for row, hit in zip(rows, _plain_hits(truth, rows, limit), strict=True) if row[5] == class_id),
        key=lambda one: -one[0],
    )  # fmt: skip
    found, points = 0, []
    for number, (_, hit) in enumerate(scored, 1):
        found += hit
        points.append((found / count, found / number))
    recalls = np.linspace(0, 1, 101)
    return float(np.mean([max((p for r, p in points if r >= recall), default=0) for recall in recalls]))


@pytest.mark.parametrize("seed", range(3))
def test_coco_is_its_definition_written_out(seed: int) -> None:
    truths, predictions = _random_case(seed)
    got = coco_map(truths, predictions, names=NAMES, integration="coco")
    plain = np.array([[_plain_ap(truths, predictions, index, limit) for limit in LIMITS] for index in NAMES])
    assert 0.2 < plain.mean() < 0.9
    assert got.map50_95 == pytest.approx(plain.mean(), abs=1e-9)
    assert got.map50 == pytest.approx(plain[:, 0].mean(), abs=1e-9)
    for index, row in zip(NAMES, plain, strict=True):
        assert got.per_class[index].map50_95 == pytest.approx(row.mean(), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_yolo_val_is_the_arithmetic_of_ultralytics(seed: int) -> None:
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    truths, predictions = _random_case(seed)
    hits = np.concatenate(
        [
            np.array([_plain_hits(truth, rows, limit) for limit in LIMITS]).T.reshape(-1, 10)
            for truth, rows in zip(truths, predictions, strict=True)
        ]
    )
    rows = np.concatenate(predictions)
    wanted = metrics.ap_per_class(
        hits, rows[:, 4], rows[:, 5], np.concatenate([one.class_id for one in truths])
    )[5]
    got = coco_map(truths, predictions, names=NAMES)
    assert got.map50_95 == pytest.approx(wanted.mean(), abs=1e-9)
    assert got.map50 == pytest.approx(wanted[:, 0].mean(), abs=1e-9)


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    coco_map(*_random_case(0), names=NAMES)
    assert capfd.readouterr() == ("", "")


def test_without_the_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trt-yolo\[cpu\]'"):
        coco_map(*_random_case(0), names=NAMES)
