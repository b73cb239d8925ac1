"""A fixed piece of work, done between the windows: how fast the machine itself is just then.

Two results of one machine on two days differ by more than their models do. What the yardstick shows can be told
from what a model does (`bench/baseline.py`). It uses neither ONNX Runtime nor a GPU: their own changes must show.
"""

from __future__ import annotations

import time

import cv2
import numpy as np

_SIDE = 320
_SECONDS = 0.03


class Yardstick:
    """Filters an image again and again, on as many threads as OpenCV has.

    Attributes:
        rates: Work a second, each time it was read.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        chance = np.random.default_rng(0)
        self._image = chance.random((_SIDE, _SIDE, 3), np.float32)
        self._work()

    def read(self) -> None:
        """Works for 30 ms, and notes how fast."""
        start_s = now_s = time.perf_counter()
        done = 0
        while now_s - start_s < _SECONDS:
            self._work()
            done += 1
            now_s = time.perf_counter()
        self.rates.append(done / (now_s - start_s))

    def _work(self) -> None:
        cv2.GaussianBlur(self._image, (9, 9), 2.0)
