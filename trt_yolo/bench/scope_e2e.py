"""The scope `e2e`: image files, or frames of live streams, to `Detections`, through the whole runtime.

Enters: a loaded model, image files, a scenario. Leaves: windows. What is timed is what a program sees that embeds
the runtime: nothing in here stands between it and the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.bench.flow import Flow
from trt_yolo.bench.loads import Scenario, closed_loop, open_loop, poisson_arrivals, ticks
from trt_yolo.bench.window import Query, Window
from trt_yolo.errors import BackendError
from trt_yolo.media.images import read_image
from trt_yolo.runtime.job import StageTimes
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.results import Result

_CAMERA_IMAGES = 32
_IDLE_S = 0.001


class FilesToDetections:
    """A model under a load; see `Contender`.

    Args:
        model: A loaded model, at rest.
        paths: Readable image files, taken round and round.
        scenario: The load.
        seed: Of arrivals.
        name: What it is called in results.
        tolerates: Whether images may fail, as they do when workers are killed: errors are counted then.
    """

    def __init__(
        self,
        model: Model,
        paths: Sequence[Path],
        scenario: Scenario,
        *,
        seed: int = 0,
        name: str = "e2e",
        tolerates: bool = False,
    ) -> None:
        self.name = name
        self.is_continuous = scenario.is_open
        self._model, self._scenario, self._seed = model, scenario, seed
        self._files = itertools.cycle(paths)
        self._tolerates = tolerates
        self._frames: list[npt.NDArray[np.uint8]] = []
        if scenario.name == "cameras":
            self._frames = [read_image(path) for path in paths[:_CAMERA_IMAGES]]

    def window(self, seconds: float) -> Window:
        """See `Contender`.

        Raises:
            TrtYoloError: The first error of an image, where none is tolerated.
        """
        before = self._model.stats()
        window = self._load()(seconds)
        while self._model.stats().waiting:
            time.sleep(_IDLE_S)
        after = self._model.stats()
        return dataclasses.replace(window, stages=_stages_between(before, after))

    def _load(self) -> Callable[[float], Window]:
        loads = {"server": self._server, "offline": self._offline, "cameras": self._cameras}
        return loads.get(self._scenario.name, self._closed)

    def _closed(self, seconds: float) -> Window:
        """`single-stream` and `multi-stream`: what a caller sees of plain calls."""
        count = self._scenario.count
        if self._scenario.name == "single-stream":
            return closed_loop(lambda: self._model(next(self._files)), images=1, seconds=seconds)
        return closed_loop(
            lambda: self._model(list(itertools.islice(self._files, count))), images=count, seconds=seconds
        )

    def _server(self, seconds: float) -> Window:
        assert self._scenario.rate is not None
        arrivals_s = poisson_arrivals(self._scenario.rate, seconds, seed=self._seed)
        window = open_loop(self._issue, arrivals_s, seconds=seconds)
        self._seed += 1
        if window.errors and not self._tolerates:
            raise BackendError(f"{window.errors} of {window.offered} images failed; run predict on them")
        return window

    def _issue(self, ended: Callable[[Exception | None], None]) -> None:
        future = self._model.submit(next(self._files))
        future.add_done_callback(lambda done: ended(_error(done)))

    def _offline(self, seconds: float) -> Window:
        """A stream of files that keeps all workers busy; every one of them must come back, once."""
        flow = Flow(seconds, round_images=max(1, self._model.workers) * self._model.max_batch)
        offered = errors = answered = 0
        came: set[int] = set()

        def files() -> Iterator[Path]:
            nonlocal offered
            while not flow.is_over:
                offered += 1
                yield next(self._files)

        stream = self._model.stream(files(), ordered=False)
        with contextlib.closing(stream) as results:  # type: ignore[type-var]  # it is a generator
            for result in results:
                flow.note()
                answered += 1
                came.add(result.index)
                if result.error is not None:
                    self._tolerate(result.error)
                    errors += 1
        lost = abs(offered - answered) + answered - len(came)
        return dataclasses.replace(flow.window(), offered=offered, errors=errors, lost=lost)

    def _tolerate(self, error: Exception) -> None:
        if not self._tolerates:
            raise error

    def _cameras(self, seconds: float) -> Window:
        """So many live streams at once; the age of a frame counts from when the camera had it."""
        count, fps = self._scenario.count, self._scenario.fps
        frames = max(1, round(seconds * fps))
        started_s, stopped = time.perf_counter(), threading.Event()
        cameras = [
            _Camera(self._frames, number, fps, started_s + number / (count * fps), frames)
            for number in range(count)
        ]
        with ThreadPoolExecutor(count, "trt-yolo-camera") as threads:
            watching = [threads.submit(self._watch, camera, stopped) for camera in cameras]
            try:
                for one in watching:
                    one.result()
            finally:
                stopped.set()
        return _of_cameras(cameras, started_s, frames / fps, lost=self._lost_by(cameras))

    def _watch(self, camera: _Camera, stopped: threading.Event) -> None:
        stream = self._model.stream(
            camera.frames(stopped),
            policy=self._scenario.policy,
            in_flight=self._share_of_slots(),
            name=camera.name,
        )
        with contextlib.closing(stream) as results:  # type: ignore[type-var]  # it is a generator
            for result in results:
                if result.error is not None:
                    self._tolerate(result.error)
                camera.note(result)
        camera.dropped = self._model.stats().sources[camera.name].dropped

    def _share_of_slots(self) -> int:
        """Frames of one camera under way at once: all cameras together keep every worker busy, and no more."""
        wanted = 2 * max(1, self._model.workers) * self._model.max_batch
        return max(1, -(-wanted // self._scenario.count))

    def _lost_by(self, cameras: Sequence[_Camera]) -> int:
        return sum(one.offered - one.dropped - one.errors - len(one.queries) for one in cameras)


class _Camera:
    """A live stream, and what came of it.

    Attributes:
        name: Under which it appears in the model's statistics.
        offered: Frames that it had.
        dropped: Of those, thrown away.
        errors: Of those, answered with an error.
        queries: The others.
    """

    def __init__(
        self, frames: Sequence[npt.NDArray[np.uint8]], number: int, fps: float, offset_s: float, count: int
    ) -> None:
        self.name = f"camera-{number}"
        self.offered = self.dropped = self.errors = 0
        self.queries: list[Query] = []
        self._frames, self._first = frames, number
        self._fps, self._offset_s, self._count = fps, offset_s, count

    def frames(self, stopped: threading.Event) -> Iterator[npt.NDArray[np.uint8]]:
        """Each frame when its moment has come."""
        for _ in ticks(self._fps, offset_s=self._offset_s, frames=self._count, stopped=stopped):
            self.offered += 1
            yield self._frames[(self._first + self.offered) % len(self._frames)]

    def note(self, result: Result) -> None:
        """A frame has been answered."""
        if result.error is not None:
            self.errors += 1
            return
        due_s = self._offset_s + result.index / self._fps
        self.queries.append(Query(due_s, due_s, time.perf_counter()))


def _of_cameras(cameras: Sequence[_Camera], started_s: float, seconds: float, *, lost: int) -> Window:
    """What came of cameras that ran for so long: the last frame's own time is a part of it."""
    queries = sorted((query for camera in cameras for query in camera.queries), key=lambda one: one.ended_s)
    ends_s = [query.ended_s for query in queries]
    return Window(
        started_s=started_s,
        seconds=max([started_s + seconds, *ends_s[-1:]]) - started_s,
        images=len(queries),
        queries=queries,
        offered=sum(camera.offered for camera in cameras),
        dropped=sum(camera.dropped for camera in cameras),
        errors=sum(camera.errors for camera in cameras),
        lost=lost,
        ends_s=ends_s,
    )


def _error(done: Future[Any]) -> Exception | None:
    error = done.exception()
    return error if isinstance(error, Exception) else None


def _stages_between(before: Any, after: Any) -> StageTimes | None:
    """What images took between two looks at the model's statistics, mean."""
    images = after.frames - before.frames
    if images < 1:
        return None
    earlier, later = (dataclasses.astuple(one.stages_ms) for one in (before, after))
    return StageTimes(
        *(
            (new * after.frames - old * before.frames) / images
            for old, new in zip(earlier, later, strict=True)
        )
    )
