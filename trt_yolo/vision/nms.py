"""Box selection on the host: rows of a head's output, and greedy NMS. Arrays in, arrays out.

A row is `x1 y1 x2 y2 score class`, float32, in pixels of the letterboxed image. The host needs this for
head graphs, and to finish the rare image on which the deploy graph's own NMS did not settle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]


def rows_from_head(head: npt.NDArray[np.float32], *, conf: float, limit: int) -> Rows:
    """(N, 6) candidates of one image, best first: every anchor with its best class.

    Args:
        head: (4 + classes, anchors) float32: cx cy w h, then a score for each class.
        conf: Scores must be above it.
        limit: The most rows to return.
    """
    best = head[4:].max(axis=0)
    above = np.flatnonzero(best > conf)
    chosen = above[np.argsort(-best[above], kind="stable")[:limit]]
    columns = head[:, chosen]
    half = columns[2:4] * np.float32(0.5)
    class_id = columns[4:].argmax(axis=0).astype(np.float32)
    return np.concatenate(
        [columns[:2] - half, columns[:2] + half, best[chosen][None], class_id[None]]
    ).T.astype(np.float32)


def greedy_nms(rows: Rows, *, iou: float, limit: int | None = None) -> Rows:
    """The rows that greedy NMS keeps, in the order given.

    A row goes if an earlier kept row of its class overlaps it by more than `iou`.

    Args:
        rows: (N, 6) float32, sorted by falling score.
        iou: Intersection over union, 0 to 1.
        limit: Stop when so many are kept, from 1; None: keep all.
    """
    x1, y1, x2, y2, _, class_id = rows.T
    area = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(rows), bool)
    most = np.float32(iou)
    kept = 0
    for first in range(len(rows)):
        if not alive[first]:
            continue
        kept += 1
        if kept == limit:
            alive[first + 1 :] = False
            break
        rest = slice(first + 1, None)
        width = np.maximum(np.minimum(x2[first], x2[rest]) - np.maximum(x1[first], x1[rest]), 0)
        height = np.maximum(np.minimum(y2[first], y2[rest]) - np.maximum(y1[first], y1[rest]), 0)
        intersection = width * height
        union = area[first] + area[rest] - intersection
        alive[rest] &= ~((intersection > union * most) & (class_id[rest] == class_id[first]))
    return rows[alive]


def pad_rows(rows: Rows, count: int) -> Rows:
    """(count, 6): the rows, then rows of zeros, as the deploy graph leaves unused ones."""
    padded = np.zeros((count, 6), np.float32)
    padded[: len(rows)] = rows[:count]
    return padded
