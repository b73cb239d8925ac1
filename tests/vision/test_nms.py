"""Candidates of a head, and greedy NMS against a plain loop and against torchvision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_yolo.vision.nms import greedy_nms, pad_rows, rows_from_head

Rows = npt.NDArray[np.float32]
Keep = Callable[[Rows, float], list[int]]

# Corners on a coarse grid: areas are whole numbers of at most 256, so that no IoU is within float32's
# rounding of these limits, and every implementation must agree.
LIMITS = [0.0, 2**0.5 / 10, 2**0.5 / 4, 2**0.5 / 2, 3**0.5 / 2, 1.0]
corner = st.integers(0, 15)
box = st.tuples(corner, corner, corner, corner).map(
    lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]) + 1, max(box[1], box[3]) + 1)
)
candidates = st.lists(st.tuples(box, st.integers(0, 2)), max_size=40)


def _rows(boxes: list[tuple[tuple[int, int, int, int], int]]) -> Rows:
    """Rows of falling, distinct scores."""
    scores = np.linspace(0.9, 0.1, max(1, len(boxes)))
    return np.array(
        [(*box, score, class_id) for (box, class_id), score in zip(boxes, scores, strict=False)], np.float32
    ).reshape(-1, 6)


def _plain_nms(rows: Rows, iou: float) -> list[int]:
    """Positions that stay, by the definition of greedy NMS."""
    kept: list[int] = []
    for position, (x1, y1, x2, y2, _, class_id) in enumerate(rows.tolist()):
        stays = True
        for other in kept:
            a1, b1, a2, b2, _, other_class = rows[other].tolist()
            inner = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner
            if class_id == other_class and inner / union > iou:
                stays = False
        if stays:
            kept.append(position)
    return kept


@settings(deadline=None)
@given(boxes=candidates, iou=st.sampled_from(LIMITS))
def test_greedy_nms_is_the_plain_loop(boxes: list[tuple[tuple[int, int, int, int], int]], iou: float) -> None:
    rows = _rows(boxes)
    np.testing.assert_array_equal(greedy_nms(rows, iou=iou), rows[_plain_nms(rows, iou)])


@pytest.fixture(scope="module")
def torchvision_nms() -> Keep:
    import torch
    from torchvision.ops import batched_nms

    def keep(rows: Rows, iou: float) -> list[int]:
        given = torch.from_numpy(rows)
        return batched_nms(given[:, :4], given[:, 4], given[:, 5], iou).tolist()

    return keep


@settings(deadline=None)
@given(boxes=candidates, iou=st.sampled_from(LIMITS))
def test_greedy_nms_is_that_of_torchvision(
    torchvision_nms: Keep, boxes: list[tuple[tuple[int, int, int, int], int]], iou: float
) -> None:
    rows = _rows(boxes)
    np.testing.assert_array_equal(greedy_nms(rows, iou=iou), rows[torchvision_nms(rows, iou)])


@pytest.mark.parametrize("seed", range(3))
def test_greedy_nms_of_many_real_sized_boxes_is_that_of_torchvision(torchvision_nms: Keep, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 600, (1000, 2))
    rows = np.hstack(
        [corners, corners + rng.uniform(10, 200, (1000, 2)), np.sort(rng.random((1000, 1)), axis=0)[::-1],
         rng.integers(0, 4, (1000, 1))]
    ).astype(np.float32)  # fmt: skip
    kept = greedy_nms(rows, iou=0.45)
    assert 50 < len(kept) < 900
    np.testing.assert_array_equal(kept, rows[torchvision_nms(rows, 0.45)])


@pytest.mark.parametrize(
    ("boxes", "iou", "kept"),
    [
        pytest.param([], 0.5, [], id="none"),
        pytest.param([((0, 0, 4, 4), 0)], 0.0, [0], id="one"),
        pytest.param([((0, 0, 4, 4), 0), ((0, 0, 4, 4), 0)], 0.99, [0], id="twice-the-same"),
        pytest.param([((0, 0, 4, 4), 0), ((0, 0, 4, 4), 1)], 0.0, [0, 1], id="of-two-classes"),
        pytest.param([((0, 0, 4, 4), 0), ((0, 0, 4, 4), 0)], 1.0, [0, 1], id="limit-1-drops-nothing"),
        pytest.param([((0, 0, 4, 4), 0), ((0, 0, 2, 4), 0)], 0.5, [0, 1], id="exactly-the-limit-stays"),
        pytest.param([((0, 0, 4, 4), 0), ((4, 0, 8, 4), 0)], 0.0, [0, 1], id="touching"),
        pytest.param([((2, 2, 2, 2), 0), ((2, 2, 2, 2), 0)], 0.0, [0, 1], id="no-area"),
        pytest.param(
            [((0, 0, 10, 1), 0), ((4, 0, 14, 1), 0), ((8, 0, 18, 1), 0)],
            0.4,
            [0, 2],
            id="freed-by-a-lost-one",
        ),
    ],
)
def test_greedy_nms_by_hand(
    boxes: list[tuple[tuple[int, int, int, int], int]], iou: float, kept: list[int]
) -> None:
    rows = _rows(boxes)
    got = greedy_nms(rows, iou=iou)
    assert got.shape == (len(kept), 6)
    np.testing.assert_array_equal(got, rows[kept])


@pytest.mark.parametrize("limit", [1, 2, 5, 50, 51, 1000])
def test_greedy_nms_with_a_limit_is_the_beginning_of_that_without(limit: int) -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (200, 2))
    rows = np.hstack(
        [corners, corners + rng.uniform(10, 40, (200, 2)), rng.random((200, 1)), np.zeros((200, 1))]
    )
    rows = rows[np.argsort(-rows[:, 4])].astype(np.float32)
    kept = greedy_nms(rows, iou=0.3)
    assert 50 < len(kept) < 150
    np.testing.assert_array_equal(greedy_nms(rows, iou=0.3, limit=limit), kept[:limit])


HEAD = np.array(
    [  # four anchors, three classes
        [10, 20, 30, 40],  # cx
        [11, 21, 31, 41],  # cy
        [4, 6, 8, 10],  # w
        [2, 4, 6, 8],  # h
        [0.1, 0.2, 0.5, 0.0],
        [0.3, 0.9, 0.5, 0.0],
        [0.2, 0.1, 0.4, 0.25],
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("conf", "limit", "anchors"),
    [
        (0.0, 10, [1, 2, 0, 3]),
        (0.25, 10, [1, 2, 0]),  # the score must be above, not at, the limit
        (0.24, 10, [1, 2, 0, 3]),
        (0.0, 2, [1, 2]),
        (0.95, 10, []),
        (1.0, 10, []),
    ],
)
def test_rows_from_head_takes_the_best_anchors_above_the_limit(
    conf: float, limit: int, anchors: list[int]
) -> None:
    all_rows = np.array(
        [
            [8, 10, 12, 12, 0.3, 1],
            [17, 19, 23, 23, 0.9, 1],
            [26, 28, 34, 34, 0.5, 0],
            [35, 37, 45, 45, 0.25, 2],
        ],
        np.float32,
    )
    got = rows_from_head(HEAD, conf=conf, limit=limit)
    assert (got.shape, got.dtype) == ((len(anchors), 6), np.float32)
    np.testing.assert_array_equal(got, all_rows[anchors])


def test_rows_from_head_keeps_the_order_of_equal_scores() -> None:
    scores = np.random.default_rng(0).choice(np.array([0.3, 0.5, 0.7], np.float32), 5000)
    head = np.zeros((5, 5000), np.float32)
    head[0], head[4] = np.arange(5000), scores
    order = sorted(range(5000), key=lambda anchor: -scores[anchor])
    np.testing.assert_array_equal(rows_from_head(head, conf=0.1, limit=3000)[:, 0], order[:3000])


@pytest.mark.parametrize(("given_rows", "count"), [(0, 0), (0, 3), (2, 3), (3, 3), (5, 3)])
def test_pad_rows_has_the_count_asked_for(given_rows: int, count: int) -> None:
    rows = np.arange(1, given_rows * 6 + 1, dtype=np.float32).reshape(-1, 6)
    got = pad_rows(rows, count)
    used = min(given_rows, count)
    assert (got.shape, got.dtype) == ((count, 6), np.float32)
    np.testing.assert_array_equal(got[:used], rows[:used])
    assert not got[used:].any()
