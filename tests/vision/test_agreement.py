"""Rows against a head: right in any order that ties allow, wrong in every other way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trt_yolo.vision.agreement import Agreement, Tolerance, agreement_with_head
from trt_yolo.vision.nms import Rows, greedy_nms, rows_from_head

_TOLERANCE = Tolerance(box_px=0.1, score=1e-3, tie=1e-5)
_ROWS = 128


def _head(seed: int, *, spread: float) -> Rows:
    """(4 + 3 classes, 400 anchors): crowded boxes, scores around 0.5 as far apart as `spread`."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(40, 280, (2, 20))[:, rng.integers(0, 20, 400)] + rng.normal(0, 6, (2, 400))
    sizes = rng.uniform(20, 40, (2, 400))
    return np.concatenate([centres, sizes, 0.5 + spread * rng.random((3, 400))]).astype(np.float32)


def _found(head: Rows) -> Rows:
    return greedy_nms(rows_from_head(head, conf=0.25, limit=_ROWS), iou=0.7)


def _agreement(head: Rows, got: Rows) -> Agreement:
    return agreement_with_head(head, got, conf=0.25, iou=0.7, rows=_ROWS, tolerance=_TOLERANCE)


@pytest.mark.parametrize("seed", range(8))
def test_scores_that_tie_may_come_in_any_order(seed: int) -> None:
    """Two kernels round the scores of one head in two ways: other boxes, other classes, other candidates."""
    head = _head(seed, spread=0)
    noise = np.random.default_rng(100 + seed).normal(0, 1e-7, (2, 3, 400)).astype(np.float32)
    one, other = head.copy(), head.copy()
    one[4:] += noise[0]
    other[4:] += noise[1]
    assert not np.array_equal(_found(one)[:, :4], _found(other)[:, :4]), "they differ"
    found = _agreement(one, _found(other))
    assert (found.unmatched, found.detections > 20) == (0, True)
    assert (found.worst_box_px, found.worst_score) < (0.1, 1e-3)


@pytest.mark.parametrize(
    ("change", "is_wrong"),
    [
        (lambda rows: rows, False),
        (lambda rows: rows[1:], True),
        (lambda rows: rows[:0], True),
        (lambda rows: np.concatenate([rows, rows[:1]]), True),
        (lambda rows: np.concatenate([rows, rows[:1] + np.float32([300, 300, 300, 300, 0, 0])]), True),
        (lambda rows: rows + np.float32([0, 0, 3, 0, 0, 0]), True),
        (lambda rows: rows + np.float32([0, 0, 0, 0, 0.01, 0]), True),
        (lambda rows: rows * np.float32([1, 1, 1, 1, np.nan, 1]), True),
    ],
    ids=["same", "one lost", "all lost", "twice", "of no anchor", "boxes", "scores", "no numbers"],
)
@pytest.mark.parametrize("spread", [0.0, 0.4], ids=["ties", "no ties"])
def test_what_is_wrong_is_wrong_with_ties_too(
    change: Callable[[Rows], Rows], is_wrong: bool, spread: float
) -> None:
    head = _head(0, spread=spread)
    found = _agreement(head, change(_found(head)))
    is_off = found.unmatched > 0 or not (found.worst_box_px <= 0.1 and found.worst_score <= 1e-3)
    assert is_off == is_wrong


@pytest.mark.parametrize(("spread", "is_wrong"), [(0.0, False), (0.4, True)])
def test_another_class_is_wrong_where_it_does_not_tie(spread: float, is_wrong: bool) -> None:
    head = _head(0, spread=spread)
    rows = _found(head)
    rows[:, 5] = (rows[:, 5] + 1) % 3
    assert (_agreement(head, rows).unmatched > 0) == is_wrong


def test_a_row_that_a_lower_score_suppressed_is_missed() -> None:
    head = np.float32([[50, 52, 200], [50, 50, 50], [40, 40, 40], [40, 40, 40], [0.9, 0.8, 0.7]])
    rows = rows_from_head(head, conf=0.25, limit=3)
    assert _agreement(head, rows[[0, 2]]).unmatched == 0
    assert _agreement(head, rows[[1, 2]]).unmatched == 1
