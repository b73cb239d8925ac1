"""Which of two sets of boxes are the same objects. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]
ClassIds = npt.NDArray[np.int64]


def iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> npt.NDArray[np.float64]:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes."""
    a, b = a_xyxy[:, None].astype(np.float64), b_xyxy[None].astype(np.float64)
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = size.prod(axis=2)
    union = (a[..., 2:] - a[..., :2]).prod(axis=2) + (b[..., 2:] - b[..., :2]).prod(axis=2) - intersection
    return np.asarray(intersection / np.maximum(union, 1e-12))


def matched_pairs(
    a_xyxy: Boxes, a_class: ClassIds, b_xyxy: Boxes, b_class: ClassIds, *, iou: float
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
