"""What of a head's output counts for mAP: the protocol of `yolo val`. Arrays in, arrays out.

Unlike detection for a person, almost everything counts: each class of an anchor gives a row of its own, down
to a confidence of 0.001. Knows no images and no evaluator.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_yolo.vision.nms import Rows, greedy_nms

_CONF = 0.001
_IOU = 0.7
MAX_CANDIDATES = 30_000  # that NMS sees
MAX_DETECTIONS = 300  # an image

_FIRST_CANDIDATES = 1024
_GROWTH = 4


def rows_for_map(head: npt.NDArray[np.float32]) -> Rows:
    """(N, 6) float32 rows of one image, x1 y1 x2 y2 score class, letterboxed pixels, best first; N up to 300.

    Args:
        head: (4 + classes, anchors) float32: cx cy w h in letterboxed pixels, then a score for each class.
    """
    class_id, anchor = np.nonzero(head[4:] > np.float32(_CONF))
    score = head[4 + class_id, anchor]
    best = _best_first(score)
    rows = _rows(head, class_id[best], anchor[best], score[best])
    return _greedy_nms_of_many(rows)


def _best_first(score: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Positions of the best 30,000 scores, the first of equal ones first."""
    if len(score) <= MAX_CANDIDATES:
        return np.argsort(-score, kind="stable")
    kept = np.sort(np.argpartition(-score, MAX_CANDIDATES)[:MAX_CANDIDATES])
    return np.asarray(kept[np.argsort(-score[kept], kind="stable")], np.int64)


def _rows(
    head: npt.NDArray[np.float32],
    class_id: npt.NDArray[np.int64],
    anchor: npt.NDArray[np.int64],
    score: npt.NDArray[np.float32],
) -> Rows:
    cxcywh = head[:4, anchor]
    half = cxcywh[2:] * np.float32(0.5)
    fields = [cxcywh[:2] - half, cxcywh[:2] + half, score[None], class_id[None].astype(np.float32)]
    rows: Rows = np.concatenate(fields).T
    finite: Rows = rows[np.isfinite(rows).all(axis=1)]  # half precision may overflow: that box finds nothing
    return finite


def _greedy_nms_of_many(rows: Rows) -> Rows:
    """Greedy NMS that looks at the worse rows only where the better ones do not give 300."""
    count = _FIRST_CANDIDATES
    while True:
        kept = greedy_nms(rows[:count], iou=_IOU, limit=MAX_DETECTIONS)
        if len(kept) == MAX_DETECTIONS or count >= len(rows):
            return kept
        count *= _GROWTH
