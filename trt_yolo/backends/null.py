"""A backend that computes nothing: what a pipeline costs by itself, and a fake model for tests.

Each frame is answered with one row that tells which frame it was, so that a lost, doubled or swapped
frame shows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from trt_yolo.artifacts.manifest import DEFAULT_ROWS, Manifest, manifest_from_json
from trt_yolo.backends.base import Backend, Frames, Output

_EARLY_S = 500e-6


class NullBackend(Backend):
    """Answers every frame with a box over all of it, of score 1.

    Its class is the frame's upper left blue value, modulo the number of classes.

    Args:
        manifest: Of the model that it stands for.
        delay_ms: How long a batch takes, in milliseconds.
        delays_ms: How long the first batch takes, the second, and so on, round and round; none: `delay_ms` each.
    """

    def __init__(self, manifest: Manifest, *, delay_ms: float = 0.0, delays_ms: Sequence[float] = ()) -> None:
        super().__init__(manifest)
        self._delays_ms = itertools.cycle(delays_ms or [delay_ms])

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        until_s = time.perf_counter() + next(self._delays_ms) / 1e3
        while (left_s := until_s - time.perf_counter()) > 0:
            time.sleep(max(0.0, left_s - _EARLY_S))  # sleeping lasts longer than was asked for
        height, width = self.manifest.imgsz_hw
        detections = np.zeros((len(frames_bgr), self.manifest.rows or DEFAULT_ROWS, 6), np.float32)
        detections[:, 0, 2:5] = width, height, 1
        detections[:, 0, 5] = frames_bgr[:, 0, 0, 0].astype(np.int64) % len(self.manifest.names)
        return Output(detections, np.zeros((len(frames_bgr), 1), np.float32))


def null_from_manifest(
    manifest: str, *, delay_ms: float = 0.0, delays_ms: Sequence[float] = ()
) -> NullBackend:
    """The null backend for a model's manifest, as `Manifest.to_json` writes it."""
    known = manifest_from_json(manifest, origin="the manifest")
    return NullBackend(known, delay_ms=delay_ms, delays_ms=delays_ms)
