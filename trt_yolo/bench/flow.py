"""The rate of answers that come in bunches: workers in step answer together, then nothing comes for a while.

A count from one answer to another holds up to a bunch too many, in every window, so that no interval shows it. Here
both ends are moments, and an answer counts by where it lies between them: nothing at the ends, twice in the middle
(a Hann window). Of answers that come once in a period, the rate is exact to 2 / (pi n^3) with n periods in the
window, whatever their phase.

Enters: a moment for each answer. Leaves: a `Window`. Knows no models.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from trt_yolo.bench.window import Window

ROUNDS = 10
"""Answers of each worker in a window, at least."""

SETTLING = 0.25
"""The share of the time that does not count, at its start: workers get going, files are read ahead."""


class Flow:
    """Counts the answers of something that is kept busy. Many threads may note answers at once.

    Args:
        seconds: For how long it is kept busy, at least.
        round_images: Images that are worked on at once: workers, times images a batch.

    Attributes:
        counted_from_s: From when answers count; None while it gets going.
    """

    def __init__(self, seconds: float, *, round_images: int) -> None:
        self.counted_from_s: float | None = None
        self._round = round_images
        started_s = time.perf_counter()
        self._settled_s = started_s + SETTLING * seconds
        self._until_s = started_s + seconds
        self._ends_s: list[float] = []
        self._last: int | None = None
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        """Whether the time is over and enough has been answered: nothing need be sent any more."""
        is_enough = self._last is not None and len(self._ends_s) >= self._last
        return is_enough and time.perf_counter() >= self._until_s

    def note(self, images: int = 1) -> None:
        """So many images have just been answered."""
        with self._lock:
            now_s = time.perf_counter()
            self._ends_s += [now_s] * images
            if self.counted_from_s is None and len(self._ends_s) >= self._round:
                self.counted_from_s = max(now_s, self._settled_s)
            if self._last is None and self.counted_from_s is not None and now_s >= self.counted_from_s:
                self._last = len(self._ends_s) + ROUNDS * self._round

    def window(self) -> Window:
        """What came while it was kept busy; the flow must be over."""
        assert self.counted_from_s is not None
        assert self._last is not None
        ends_s = np.array(self._ends_s)
        started_s, ended_s = self.counted_from_s, max(self._until_s, self._ends_s[self._last - 1])
        inside_s = ends_s[(ends_s > started_s) & (ends_s <= ended_s)]
        weights = 1 - np.cos(2 * np.pi * (inside_s - started_s) / (ended_s - started_s))
        images_per_s = float(weights.sum()) / (ended_s - started_s)
        return Window(
            started_s=started_s,
            seconds=len(inside_s) / images_per_s,
            images=len(inside_s),
            ends_s=inside_s.tolist(),
        )
