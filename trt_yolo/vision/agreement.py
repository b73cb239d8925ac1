"""Which boxes of two sets are the same, and are rows those that greedy NMS gives for a head? Arrays in, arrays out.

Where scores tie, rounding decides which box NMS keeps, and with it which boxes that one suppresses. So rows that are
not those of one fixed order are right too if they could be those of another: each is a candidate of the head, no two
of a class overlap, and each candidate that is missing is suppressed by a row whose score is not below its own, or
ties with the last one that NMS sees, and others came in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_yolo.vision.nms import Rows, greedy_nms, rows_from_head

_Boxes = npt.NDArray[np.float32]
_ClassIds = npt.NDArray[np.int64]
_Head = npt.NDArray[np.float32]
_SAME_OBJECT_IOU = 0.9
_IOU_NOISE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a row may be off.

    Attributes:
        box_px: Each side of its box, pixels.
        score: Its score.
        tie: Scores that differ by less may be in either order.
    """

    box_px: float
    score: float
    tie: float

    def holds(self, difference: npt.NDArray[np.float32]) -> bool:
        """Whether a difference of x1 y1 x2 y2 score is within it."""
        return bool((difference[:4] <= self.box_px).all() and difference[4] <= self.score)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far rows are from those of a head.

    Attributes:
        detections: What greedy NMS gives for the head.
        unmatched: Rows of either that the other does not have, and no tie explains.
        worst_box_px: Largest difference of a matched box's side, pixels.
        worst_score: Largest difference of a matched score.
    """

    detections: int
    unmatched: int
    worst_box_px: float
    worst_score: float


def agreement_with_head(
    head: _Head, got: Rows, *, conf: float, iou: float, rows: int, tolerance: Tolerance
) -> Agreement:
    """How far rows are from those that greedy NMS gives for a head.

    Args:
        head: (4 + classes, anchors) float32: cx cy w h, then a score for each class.
        got: (N, 6) float32, x1 y1 x2 y2 score class.
        conf: Scores must be above it.
        iou: Above it, NMS suppresses.
        rows: Candidates that NMS sees.
        tolerance: How far a row may be off.
    """
    candidates = rows_from_head(head, conf=0.0, limit=rows)
    wanted = greedy_nms(candidates[candidates[:, 4] > conf], iou=iou)
    least = conf if len(candidates) < rows else max(conf, float(candidates[-1, 4]))
    ties = _Ties(head, got, iou, tolerance)
    differences = []
    lost, added = set(range(len(wanted))), set(range(len(got)))
    for first, second in matched_pairs(
        wanted[:, :4], wanted[:, 5].astype(np.int64), got[:, :4], got[:, 5].astype(np.int64),
        iou=_SAME_OBJECT_IOU,
    ):  # fmt: skip
        difference = np.abs(wanted[first, :5] - got[second, :5])
        if tolerance.holds(difference) or not ties.is_candidate(got[second]):
            differences.append(difference)
            lost.remove(first)
            added.remove(second)
    missed = [float(wanted[index, 4]) for index in lost if not ties.is_suppressed(wanted[index])]
    at_the_cut = sum(score <= least + tolerance.tie for score in missed)
    unmatched = sum(not ties.is_candidate(got[index]) for index in added) + ties.overlapping()
    are_replaced = 2 * len(added) >= at_the_cut  # others came in their place
    unmatched += len(missed) - (at_the_cut if are_replaced else 0)
    worst = np.max(differences, axis=0) if differences else np.zeros(5)
    return Agreement(
        detections=len(wanted), unmatched=unmatched,
        worst_box_px=float(worst[:4].max()), worst_score=float(worst[4]),
    )  # fmt: skip


class _Ties:
    """What the head's candidates say of rows that have no partner."""

    def __init__(self, head: _Head, got: Rows, iou: float, tolerance: Tolerance) -> None:
        half = head[2:4] * np.float32(0.5)
        self._boxes = np.concatenate([head[:2] - half, head[:2] + half]).T  # (anchors, 4)
        self._scores = head[4:]
        self._best = self._scores.max(axis=0)
        self._got = got
        self._iou = iou
        self._tolerance = tolerance

    def is_candidate(self, row: Rows) -> bool:
        """Whether an anchor has that box, and that class with that score as one of its best."""
        near = np.abs(self._boxes - row[:4]).max(axis=1) <= self._tolerance.box_px
        score = self._scores[int(row[5])]
        same = (np.abs(score - row[4]) <= self._tolerance.score) & (score >= self._best - self._tolerance.tie)
        return bool((near & same).any())

    def is_suppressed(self, row: Rows) -> bool:
        """Whether a row that was found may have come first, of a class that the candidate's may be."""
        anchor = int(np.abs(self._boxes - row[:4]).max(axis=1).argmin())
        scores = self._scores[self._got[:, 5].astype(np.int64), anchor]
        least = row[4] - self._tolerance.tie
        overlap = iou_matrix(row[None, :4], self._got[:, :4])[0]
        return bool(
            ((scores >= least) & (self._got[:, 4] >= least) & (overlap > self._iou - _IOU_NOISE)).any()
        )

    def overlapping(self) -> int:
        """Rows that another one of their class should have suppressed."""
        same = self._got[:, None, 5] == self._got[None, :, 5]
        overlap = np.triu(iou_matrix(self._got[:, :4], self._got[:, :4]) * same, 1)
        return int((overlap > self._iou + _IOU_NOISE).any(axis=0).sum())


def iou_matrix(a_xyxy: _Boxes, b_xyxy: _Boxes) -> npt.NDArray[np.float64]:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes."""
    a, b = a_xyxy[:, None].astype(np.float64), b_xyxy[None].astype(np.float64)
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = size.prod(axis=2)
    union = (a[..., 2:] - a[..., :2]).prod(axis=2) + (b[..., 2:] - b[..., :2]).prod(axis=2) - intersection
    return np.asarray(intersection / np.maximum(union, 1e-12))


def matched_pairs(
    a_xyxy: _Boxes, a_class: _ClassIds, b_xyxy: _Boxes, b_class: _ClassIds, *, iou: float
) -> list[tuple[int, int]]:
    """Pairs of positions, one to one: same class and IoU of at least `iou`, the closest pairs first."""
    overlap = iou_matrix(a_xyxy, b_xyxy) * (a_class[:, None] == b_class[None])
    order = np.argsort(-overlap, axis=None, kind="stable")
    pairs: list[tuple[int, int]] = []
    taken_a, taken_b = set[int](), set[int]()
    for first, second in zip(*map(np.ndarray.tolist, np.unravel_index(order, overlap.shape)), strict=True):
        if overlap[first, second] < iou:
            break
        if first not in taken_a and second not in taken_b:
            taken_a.add(first)
            taken_b.add(second)
            pairs.append((first, second))
    return pairs
