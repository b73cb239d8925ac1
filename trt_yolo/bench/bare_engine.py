"""The scope `engine`: the bare backend on frames that lie ready, as many sessions at once as there are workers.

What nothing that is built around an engine can beat. Enters: loaded backends, frames. Leaves: windows.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import Backend
from trt_yolo.bench.figures import Stages
from trt_yolo.bench.loads import closed_loop
from trt_yolo.bench.scenario import Scenario
from trt_yolo.bench.window import Window
from trt_yolo.runtime.jobs import StageTimes, Thresholds

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
        if len(self._calls) == 1:
            calls = self._calls[0]
            window = closed_loop(lambda: next(calls)(), images=self._batch, seconds=seconds)
            return Window(
                started_s=window.started_s,
                seconds=window.seconds,
                images=window.images,
                stages=_as_stage(window.seconds, len(window.queries)),
            )
        return self._together(seconds)

    def _latency(self, seconds: float, *, images: int) -> Window:
        calls, times = self._calls[0], -(-images // self._batch) if images > 1 else 1

        def query() -> None:
            for _ in range(times):
                next(calls)()

        return closed_loop(query, images=images, seconds=seconds)

    def _together(self, seconds: float) -> Window:
        """All sessions at once; counted from when all have begun to when the first one ends."""
        until_s = time.perf_counter() + seconds
        ends_s: list[list[float]] = [[] for _ in self._calls]
        errors: list[BaseException] = []
        over = threading.Event()
        threads = [
            threading.Thread(target=_run, args=(calls, until_s, over, ends, errors), daemon=True)
            for calls, ends in zip(self._calls, ends_s, strict=True)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:  # interrupted: each ends its call before the sessions are closed
            over.set()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        rates = [(len(ends) - 1) / (ends[-1] - ends[0]) for ends in ends_s]
        start_s, last_s = min(ends[0] for ends in ends_s), max(ends[-1] for ends in ends_s)
        images = sum(len(ends) - 1 for ends in ends_s) * self._batch
        return Window(
            started_s=start_s,
            seconds=images / (sum(rates) * self._batch),
            images=images,
            stages=_as_stage(last_s - start_s, images // self._batch // len(self._calls)),
        )


def _run(
    calls: Iterator[Callable[[], object]],
    until_s: float,
    over: threading.Event,
    ends_s: list[float],
    errors: list[BaseException],
) -> None:
    try:
        while (len(ends_s) < 2 or time.perf_counter() < until_s) and not over.is_set():
            next(calls)()
            ends_s.append(time.perf_counter())
    except Exception as error:  # noqa: BLE001  raised where it is waited for
        errors.append(error)


def _as_stage(seconds: float, calls: int) -> StageTimes:
    return StageTimes(infer=seconds * 1e3 / max(1, calls))


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
