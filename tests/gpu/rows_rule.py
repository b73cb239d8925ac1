"""The rule of rows_from_frames.cu in NumPy. Pure; knows no GPU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FACTOR = 2654435761


def expected_rows(
    frames_bgr: npt.NDArray[np.uint8], conf: float, iou: float, rows: int
) -> npt.NDArray[np.float32]:
    """The rows that the kernel makes of these frames, bit for bit.

    Args:
        frames_bgr: (N, ...) uint8, contiguous; only the bytes count.
        conf: Goes into every row as a float32.
        iou: As conf.
        rows: Rows of each frame.

    Returns:
        (N, rows, 6) float32: x1 y1 x2 y2 score class, best score first.
    """
    frames = frames_bgr.reshape(len(frames_bgr), -1)
    thresholds = np.array([conf, iou], np.float32).view(np.uint32)
    hashes = _hashes(frames, rows) + (thresholds * np.array([31, 17], np.uint32)).sum(dtype=np.uint32)
    found = np.empty((len(frames), rows, 6), np.float32)
    for column, shift, base in ((0, 0, 0), (1, 7, 0), (2, 14, 128), (3, 21, 128)):
        found[:, :, column] = base + ((hashes >> np.uint32(shift)) & np.uint32(127))
    found[:, :, 4] = np.arange(rows, 0, -1, dtype=np.float32) / np.float32(2 * rows)
    found[:, :, 5] = hashes >> np.uint32(28)
    return found


def _hashes(frames: npt.NDArray[np.uint8], rows: int) -> npt.NDArray[np.uint32]:
    """(N, rows) uint32: byte i of a frame counts in row i % rows."""
    size = frames.shape[1]
    folds = -(-size // rows)
    weights = np.zeros(folds * rows, np.uint32)
    weights[:size] = np.arange(size, dtype=np.uint32) * np.uint32(_FACTOR) + np.uint32(1)
    weights = weights.reshape(folds, rows)
    padded = np.zeros((len(frames), folds * rows), np.uint8)
    padded[:, :size] = frames
    hashes = np.tile(weights.sum(0, dtype=np.uint32), (len(frames), 1))
    for one, frame in zip(hashes, padded.reshape(-1, folds, rows), strict=True):
        one += np.multiply(frame, weights, dtype=np.uint32).sum(0, dtype=np.uint32)
    return hashes
