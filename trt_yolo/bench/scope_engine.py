"""The scope `engine`: the bare backend on frames that lie ready, as many sessions at once as there are workers.

What nothing that is built around an engine can beat. Enters: loaded backends, frames. Leaves: windows.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import Backend
from trt_yolo.bench.figures import Stages
from trt_yolo.bench.flow import Flow
from trt_yolo.bench.loads import Scenario, closed_loop
from trt_yolo.bench.window import Window
from trt_yolo.runtime.job import StageTimes, Thresholds

_PREPARED = 4
_PART_CALLS = 9


class BareEngine:
    """Backends under a load; see `Contender`. A latency is one backend's; `offline` runs all at once.

    Args:
        backends: The sessions, each with the threads of one worker.
        frames: (N, H, W, 3) uint8, letterboxed, at least a batch.
        batch: Frames a call of `offline` and `multi-stream`.
        scenario: `single-stream` and `multi-stream` as they are; all others as `offline`.
    """

    name = "engine"
    is_continuous = False

    def __init__(
        self,
        backends: Sequence[Backend],
        frames: npt.NDArray[np.uint8],
        *,
        batch: int,
        scenario: Scenario,
    ) -> None:
        self._scenario, self._batch = scenario, batch
        size = 1 if scenario.name == "single-stream" else batch
        chosen = backends[:1] if scenario.name in ("single-stream", "multi-stream") else backends
        size = max(size, chosen[0].manifest.batch.minimum)
        self._calls = [bare_calls(backend, frames, size) for backend in chosen]

    def window(self, seconds: float) -> Window:
        """See `Contender`."""
        if self._scenario.name == "single-stream":
            return self._latency(seconds, images=1)
        if self._scenario.name == "multi-stream":
            return self._latency(seconds, images=self._scenario.count)
        return self._together(seconds)

    def _latency(self, seconds: float, *, images: int) -> Window:
        calls, times = self._calls[0], -(-images // self._batch) if images > 1 else 1

        def query() -> None:
            for _ in range(times):
                next(calls)()

        return closed_loop(query, images=images, seconds=seconds)

    def _together(self, seconds: float) -> Window:
        """All sessions at once, each call after call."""
        flow = Flow(seconds, round_images=len(self._calls) * self._batch)
        over = threading.Event()
        with ThreadPoolExecutor(len(self._calls), "trt-yolo-engine") as threads:
            sessions = [threads.submit(self._call_on, calls, flow, over) for calls in self._calls]
            try:
                for session in sessions:
                    session.result()
            finally:  # interrupted: each ends its call before the sessions are closed
                over.set()
        window = flow.window()
        call_ms = 1e3 * len(self._calls) * self._batch / window.images_per_s
        return dataclasses.replace(window, stages=StageTimes(infer=call_ms))

    def _call_on(self, calls: Iterator[Callable[[], object]], flow: Flow, over: threading.Event) -> None:
        """One session's thread."""
        try:
            while not flow.is_over and not over.is_set():
                next(calls)()
                flow.note(self._batch)
        finally:
            over.set()  # one that fails ends the others


def bare_calls(backend: Backend, frames: npt.NDArray[np.uint8], batch: int) -> Iterator[Callable[[], object]]:
    """Calls of the bare backend on batches of the frames, round and round."""
    thresholds, count = Thresholds(), min(_PREPARED, max(1, len(frames) // batch))
    rows = itertools.cycle(range(len(frames)))
    batches = [np.stack([frames[next(rows)] for _ in range(batch)]) for _ in range(count)]
    return itertools.cycle(
        [backend.bare_call(one, conf=thresholds.conf, iou=thresholds.iou) for one in batches]
    )


def measured_parts(backend: Backend, frames: npt.NDArray[np.uint8], batch: int) -> Stages:
    """What bringing a batch in, running it and bringing its rows back take, each by itself, middle of 9."""
    thresholds = Thresholds()
    given = np.stack([frames[number % len(frames)] for number in range(batch)])
    seen = [backend.timed_parts(given, conf=thresholds.conf, iou=thresholds.iou) for _ in range(_PART_CALLS)]
    copy_in, engine, copy_out = np.median(np.array(seen), axis=0).tolist()
    return Stages(copy_in=copy_in, engine=engine, copy_out=copy_out)
