"""Rows for mAP against Ultralytics' own non_max_suppression with the settings of `yolo val`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo.evaluation.accuracy import samples
from trt_yolo.evaluation.dataset import labels_of
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.evaluation.protocol import MAX_CANDIDATES, rows_for_map

Rows = npt.NDArray[np.float32]


def _of_ultralytics(head: npt.NDArray[np.float32]) -> Rows:
    torch = pytest.importorskip("torch")
    nms = pytest.importorskip("ultralytics.utils.nms")
    pytest.importorskip("torchvision")
    found = nms.non_max_suppression(
        torch.from_numpy(head[None].copy()), 0.001, 0.7, multi_label=True, max_det=300, max_time_img=100
    )
    return found[0].numpy()


def _alone(rows: Rows, others: Rows) -> Rows:
    """Rows that have no equal among the others."""
    far = np.abs(rows[:, None] - others[None]) > np.array([1e-2] * 4 + [1e-6, 0])
    return rows[far.any(axis=2).all(axis=1)]


def test_rows_of_real_heads_are_those_of_ultralytics(yolov8n: Path, val_images: list[Path]) -> None:
    images = val_images[:10]
    labels = [found for path in images if (found := labels_of(path, classes=80)) is not None]
    total = alone = 0
    with HeadRunner(yolov8n, threads=2) as runner:
        for sample in samples(images, labels, (640, 640)):
            head = runner.head(sample.frame_bgr[None])[0]
            got, wanted = rows_for_map(head), _of_ultralytics(head)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got[:, 4], wanted[:, 4], atol=1e-3)
            total += len(wanted)
            alone += len(_alone(wanted, got))
    assert total > 1000
    assert alone <= 0.002 * total, f"{alone} of {total}: more than their boxes' rounding can make"


def _random_head(
    rng: np.random.Generator, classes: int, anchors: int, share: float
) -> npt.NDArray[np.float32]:
    """Boxes all over 640 pixels; a share of the scores is above the threshold, all of them different."""
    centre, size = rng.uniform(50, 590, (2, anchors)), rng.uniform(20, 100, (2, anchors))
    scores = rng.permutation(classes * anchors).reshape(classes, anchors) / (classes * anchors)
    scores = np.where(scores > 1 - share, scores, 0.0009)
    return np.concatenate([centre, size, scores]).astype(np.float32)


@pytest.mark.parametrize(
    ("classes", "anchors", "share"),
    [(1, 2000, 0.5), (3, 100, 1.0), (3, 2000, 0.2), (80, 500, 0.02), (80, 2000, 0.9), (20, 100, 0.0)],
)
def test_rows_of_random_heads_are_those_of_ultralytics(classes: int, anchors: int, share: float) -> None:
    head = _random_head(np.random.default_rng(anchors + classes), classes, anchors, share)
    got, wanted = rows_for_map(head), _of_ultralytics(head)
    assert got.dtype == np.float32
    assert got.shape == wanted.shape
    assert len(_alone(wanted, got)) <= 0.01 * len(wanted)


def _head(*anchors: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Of anchors `cx cy w h score score ...`."""
    return np.array(anchors, np.float32).T.copy()


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        pytest.param(_head((9, 9, 4, 2, 0, 0)), [], id="nothing"),
        pytest.param(_head((9, 9, 4, 2, 0.001, 0.0011)), [[7, 8, 11, 10, 0.0011, 1]], id="above-not-at-the-limit"),
        pytest.param(
            _head((9, 9, 4, 2, 0.3, 0.5)),
            [[7, 8, 11, 10, 0.5, 1], [7, 8, 11, 10, 0.3, 0]],
            id="each-class-has-a-row",
        ),
        pytest.param(
            _head((9, 9, 4, 2, 0.3, 0), (9, 9, 4, 2, 0.4, 0)), [[7, 8, 11, 10, 0.4, 0]], id="nms-in-a-class"
        ),
        pytest.param(_head((9, 9, np.inf, 2, 0.9, 0), (9, 9, np.nan, 2, 0.9, 0)), [], id="no-numbers"),
    ],
)  # fmt: skip
def test_rows_by_hand(head: npt.NDArray[np.float32], wanted: list[list[float]]) -> None:
    got = rows_for_map(head)
    assert got.shape == (len(wanted), 6)
    np.testing.assert_allclose(got, np.array(wanted, np.float32).reshape(-1, 6))


def test_only_the_best_candidates_reach_nms() -> None:
    """All boxes are one, so NMS keeps the best of each class; class 0 has none among the best 30,000."""
    head = np.full((6, MAX_CANDIDATES), 0.5, np.float32)
    head[4] = 0.2
    assert rows_for_map(head)[:, 5].tolist() == [1]
    head[5, 7:] = 0.1
    assert rows_for_map(head)[:, 4:].tolist() == [[0.5, 1], [np.float32(0.2), 0]]
