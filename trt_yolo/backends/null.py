"""A backend that computes nothing: what a pipeline costs by itself, and a fake model for tests.

Each frame is answered with one row that tells which frame it was, so that a lost, doubled or swapped
frame shows.
"""

from __future__ import annotations

import time

import numpy as np

from trt_yolo.backends.base import Backend, Frames, Output
from trt_yolo.manifest import DEFAULT_ROWS, Manifest, manifest_from_json


class NullBackend(Backend):
    """Answers every frame with a box over all of it, of score 1.

    Its class is the frame's upper left blue value, modulo the number of classes.

    Args:
        manifest: Of the model that it stands for.
        delay_ms: How long a batch takes, in milliseconds.
    """

    def __init__(self, manifest: Manifest, *, delay_ms: float = 0.0) -> None:
        super().__init__(manifest)
        self._delay_ms = delay_ms

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        if self._delay_ms:
            time.sleep(self._delay_ms / 1e3)
        height, width = self.manifest.imgsz_hw
        detections = np.zeros((len(frames_bgr), self.manifest.rows or DEFAULT_ROWS, 6), np.float32)
        detections[:, 0, 2:5] = width, height, 1
        detections[:, 0, 5] = frames_bgr[:, 0, 0, 0].astype(np.int64) % len(self.manifest.names)
        return Output(detections, np.zeros((len(frames_bgr), 1), np.float32))


def null_from_manifest(manifest: str, *, delay_ms: float = 0.0) -> NullBackend:
    """The null backend for a model's manifest, as `Manifest.to_json` writes it."""
    return NullBackend(manifest_from_json(manifest, origin="the manifest"), delay_ms=delay_ms)
