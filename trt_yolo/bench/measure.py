"""What a model does from image files to detections, and what its bare backend does beside it.

Enters: a loaded model and image files. Leaves: a `BenchResult`. All is measured in turn, window by window, so
that a change of the machine's speed hits everything alike. Prints nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import Backend
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import InputError
from trt_yolo.media.images import read_image, write_jpeg
from trt_yolo.runtime.jobs import StageTimes, Thresholds
from trt_yolo.runtime.model import Model
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

_WINDOWS = 5
_WARM_UP_CALLS = 3
_WARM_UP_S = 1.0
_SCENES = 16
_IDLE_S = 0.001

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Latencies of one call, a batch of files to their detections, in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What was measured.

    Attributes:
        images_per_s: A stream of files to their detections.
        latency_ms: Of one call, a batch of files to its detections, with nothing else under way.
        stages_ms: What an image of the stream took in each stage, mean; `infer` is its whole batch's.
        bare_images_per_s: One backend alone (an ONNX Runtime session, an engine) on prepared frames, same batch
            and threads.
        efficiency: `images_per_s / bare_images_per_s`, for each worker.
        batch: The most images a batch.
        workers: Sessions that run at once: worker processes, or 1 in this process.
        images: Images of the stream, warm-up not counted.
        calls: Calls measured, warm-up not counted.
    """

    images_per_s: float
    latency_ms: Percentiles
    stages_ms: StageTimes
    bare_images_per_s: float
    efficiency: float
    batch: int
    workers: int
    images: int
    calls: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded to what was measured."""
        return {
            key: {inner: round(number, 3) for inner, number in value.items()}
            if isinstance(value, dict)
            else round(value, 3)
            for key, value in asdict(self).items()
        }


def bench_model(
    model: Model,
    bare: Backend,
    paths: Sequence[Path],
    *,
    batch: int,
    seconds: float,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures calls, a stream and the bare backend, each for a third of the time.

    Args:
        model: What is measured, loaded with `max_batch=batch`.
        bare: The same model and threads, without a runtime around it.
        paths: Readable image files, taken round and round.
        batch: Images a call; the model must take it.
        seconds: For all together, warm-up not counted; at least one call a window is made.
        progress: Called after each window.

    Raises:
        InputError: A batch that the model does not take, or no time.
        ImageError: A file that cannot be read.
    """
    check_bench(bare, paths, batch, seconds)
    files = itertools.cycle(paths)
    bare_calls = itertools.cycle(bare_calls_on(bare, paths, batch))
    _warm_up(model, files, bare_calls, batch)
    share_s = seconds / 3 / _WINDOWS
    calls_s: list[float] = []
    bare_s: list[float] = []
    streams: list[Steady] = []
    for window in range(_WINDOWS):
        calls_s += timed_for(lambda: model(list(itertools.islice(files, batch))), share_s)
        streams.append(steady_stream(model, files, share_s))
        bare_s += timed_for(lambda: next(bare_calls)(), share_s)
        if progress is not None:
            progress((window + 1) / _WINDOWS)
    return _result(calls_s, streams, bare_s, batch, max(1, model.workers))


@dataclass(frozen=True)
class Steady:
    """A stream while it was running evenly: results, the seconds they took, and the stages of each."""

    images: int
    seconds: float
    stages: Sequence[StageTimes]


def steady_stream(model: Model, files: Iterator[Path], seconds: float) -> Steady:
    """Streams for so long, and returns when nothing is under way any more.

    The first results, which waited for all workers to get going, are not counted, nor what is under way at last.

    Raises:
        TrtYoloError: The first error of a frame.
    """
    settling = max(1, model.workers)
    start_s, times, stages = 0.0, 0.0, []
    end_s = time.perf_counter() + seconds
    with contextlib.closing(model.stream(files)) as results:  # type: ignore[type-var]  # it is a generator
        for count, result in enumerate(results):
            _ = result.detections
            times = time.perf_counter()
            if count < settling:
                start_s, end_s = times, times + seconds
            elif result.times is not None:
                stages.append(result.times)
                if times >= end_s:
                    break
    while model.stats().waiting:
        time.sleep(_IDLE_S)
    return Steady(len(stages), times - start_s, stages)


def write_scenes(folder: Path, imgsz_hw: tuple[int, int]) -> list[Path]:
    """JPEG files of demo scenes as large as the model's input, for a bench without images of its own."""
    paths = [folder / f"{index:02d}.jpg" for index in range(_SCENES)]
    for index, path in enumerate(paths):
        write_jpeg(path, scene(index, size=max(imgsz_hw)).image_bgr)
    return paths


def check_bench(bare: Backend, paths: Sequence[Path], batch: int, seconds: float) -> None:
    """Raises InputError for a batch that the model does not take, no time, or no images."""
    bare.manifest.batch.check(batch)
    if not 0 < seconds <= 86400:
        raise InputError(f"--seconds {seconds:g} is no time to measure; give more than 0, such as 10")
    if not paths:
        raise InputError("no image to measure with; give a folder of images with --data")


def _warm_up(
    model: Model, files: Iterator[Path], bare_calls: Iterator[Callable[[], object]], batch: int
) -> None:
    start = time.perf_counter()
    for call in itertools.count():
        model(list(itertools.islice(files, batch)))
        next(bare_calls)()
        if call + 1 >= _WARM_UP_CALLS and time.perf_counter() - start >= _WARM_UP_S:
            return


def bare_calls_on(backend: Backend, paths: Sequence[Path], batch: int) -> list[Callable[[], object]]:
    """Calls of the bare backend on frames of the real images, letterboxed beforehand."""
    height, width = backend.manifest.imgsz_hw
    frames: npt.NDArray[np.uint8] = np.empty((batch, height, width, 3), np.uint8)
    calls: list[Callable[[], object]] = []
    for start in range(0, min(len(paths), 4 * batch), batch):
        for index, frame in enumerate(frames):
            image = read_image(paths[(start + index) % len(paths)])
            letterbox_into(image, frame, fit_letterbox(image.shape[:2], (height, width)))
        thresholds = Thresholds()
        calls.append(backend.bare_call(frames.copy(), conf=thresholds.conf, iou=thresholds.iou))
    return calls


def timed_for(call: Callable[[], object], seconds: float) -> list[float]:
    """What each call took, in seconds, called for so long, at least once."""
    taken_s: list[float] = []
    end_s = time.perf_counter() + seconds
    while not taken_s or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        call()
        taken_s.append(time.perf_counter() - start_s)
    return taken_s


def _result(
    calls_s: Sequence[float], streams: Sequence[Steady], bare_s: Sequence[float], batch: int, workers: int
) -> BenchResult:
    p50, p90, p99 = (float(value) for value in np.percentile(np.array(calls_s) * 1e3, [50, 90, 99]))
    images = sum(stream.images for stream in streams)
    images_per_s = images / sum(stream.seconds for stream in streams)
    bare_images_per_s = batch / float(np.mean(bare_s))
    stages = [stage for stream in streams for stage in stream.stages]
    return BenchResult(
        images_per_s=images_per_s,
        latency_ms=Percentiles(p50=p50, p90=p90, p99=p99),
        stages_ms=StageTimes(
            *(float(np.mean([getattr(stage, one.name) for stage in stages])) for one in fields(StageTimes))
        ),
        bare_images_per_s=bare_images_per_s,
        efficiency=images_per_s / (bare_images_per_s * workers),
        batch=batch,
        workers=workers,
        images=images,
        calls=len(calls_s),
    )
