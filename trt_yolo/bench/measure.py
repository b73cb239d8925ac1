"""What a model does from image files to detections, and what bare ONNX Runtime does beside it.

Enters: a loaded backend and image files. Leaves: a `BenchResult`. Both are measured in turn, window by
window, so that a change of the machine's speed hits both alike. Prints nothing.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import InputError
from trt_yolo.media.images import read_image, write_jpeg
from trt_yolo.runtime.inline import Model, Thresholds
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

_WINDOWS = 10
_WARM_UP_CALLS = 3
_WARM_UP_S = 1.0
_SCENES = 16

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Latencies of one call, a batch of files to their detections, in milliseconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class StageMeans:
    """What an image takes in each stage, mean, in milliseconds."""

    decode: float
    letterbox: float
    infer: float
    post: float


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What was measured.

    Attributes:
        images_per_s: From files to detections, one batch after another.
        latency_ms: Of one batch, from files to detections.
        stages_ms: Where an image's time goes.
        bare_images_per_s: ONNX Runtime alone on prepared frames, same session, batch and threads.
        efficiency: `images_per_s / bare_images_per_s`.
        batch: Images a call.
        calls: Calls measured, warm-up not counted.
    """

    images_per_s: float
    latency_ms: Percentiles
    stages_ms: StageMeans
    bare_images_per_s: float
    efficiency: float
    batch: int
    calls: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded to what was measured."""
        return {
            key: {inner: round(number, 3) for inner, number in value.items()}
            if isinstance(value, dict)
            else round(value, 3)
            for key, value in asdict(self).items()
        }


def bench_backend(
    backend: OnnxRuntimeBackend,
    paths: Sequence[Path],
    *,
    batch: int,
    seconds: float,
    progress: Progress | None = None,
) -> BenchResult:
    """Measures files to detections, and bare ONNX Runtime, each for half of the time.

    Args:
        backend: The model; its session is used for both.
        paths: Readable image files, taken round and round.
        batch: Images a call; the model must take it.
        seconds: For both together, warm-up not counted; at least one call a window is made.
        progress: Called after each window.

    Raises:
        InputError: A batch that the model does not take, or no time.
        ImageError: A file that cannot be read.
    """
    _check(backend, paths, batch, seconds)
    model = Model(backend)
    files = itertools.cycle(paths)
    bare_calls = itertools.cycle(_bare_calls(backend, paths, batch))
    _warm_up(model, files, bare_calls, batch)
    samples: list[_Sample] = []
    bare_s: list[float] = []
    for window in range(_WINDOWS):
        samples += _window(lambda: _sample(model, files, batch), seconds / 2 / _WINDOWS)
        bare_s += _window(lambda: _timed(next(bare_calls)), seconds / 2 / _WINDOWS)
        if progress is not None:
            progress((window + 1) / _WINDOWS)
    return _result(samples, bare_s, batch)


def write_scenes(folder: Path, imgsz_hw: tuple[int, int]) -> list[Path]:
    """JPEG files of demo scenes as large as the model's input, for a bench without images of its own."""
    paths = [folder / f"{index:02d}.jpg" for index in range(_SCENES)]
    for index, path in enumerate(paths):
        write_jpeg(path, scene(index, size=max(imgsz_hw)).image_bgr)
    return paths


@dataclass(frozen=True)
class _Sample:
    """One call: all of it, and its stages, in seconds."""

    total_s: float
    stages_s: tuple[float, float, float, float]


def _check(backend: OnnxRuntimeBackend, paths: Sequence[Path], batch: int, seconds: float) -> None:
    allowed = backend.manifest.batch
    if not allowed.minimum <= batch <= allowed.maximum:
        raise InputError(f"a batch of {batch}, and this model takes {allowed}; give one that it takes")
    if not 0 < seconds <= 86400:
        raise InputError(f"--seconds {seconds:g} is no time to measure; give more than 0, such as 10")
    if not paths:
        raise InputError("no image to measure with; give a folder of images with --data")


def _warm_up(
    model: Model, files: Iterator[Path], bare_calls: Iterator[Callable[[], object]], batch: int
) -> None:
    start = time.perf_counter()
    for call in itertools.count():
        _sample(model, files, batch)
        next(bare_calls)()
        if call + 1 >= _WARM_UP_CALLS and time.perf_counter() - start >= _WARM_UP_S:
            return


def _sample(model: Model, files: Iterator[Path], batch: int) -> _Sample:
    start = time.perf_counter()
    images = [read_image(path) for path in itertools.islice(files, batch)]
    decoded = time.perf_counter()
    _, times = model.run_batch(images, Thresholds())
    stages = (decoded - start, times.letterbox_ms / 1e3, times.infer_ms / 1e3, times.post_ms / 1e3)
    return _Sample(time.perf_counter() - start, stages)


def _bare_calls(backend: OnnxRuntimeBackend, paths: Sequence[Path], batch: int) -> list[Callable[[], object]]:
    """Calls of the bare session on frames of the real images, letterboxed beforehand."""
    height, width = backend.manifest.imgsz_hw
    frames: npt.NDArray[np.uint8] = np.empty((batch, height, width, 3), np.uint8)
    calls: list[Callable[[], object]] = []
    for start in range(0, min(len(paths), 4 * batch), batch):
        for index, frame in enumerate(frames):
            image = read_image(paths[(start + index) % len(paths)])
            letterbox_into(image, frame, fit_letterbox(image.shape[:2], (height, width)))
        thresholds = Thresholds()
        feed = backend.feed(frames.copy(), thresholds.conf, thresholds.iou)
        calls.append(functools.partial(backend.session.run, None, feed))
    return calls


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _window(sample: Callable[[], Any], seconds: float) -> list[Any]:
    samples: list[Any] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples.append(sample())
    return samples


def _result(samples: Sequence[_Sample], bare_s: Sequence[float], batch: int) -> BenchResult:
    totals = np.array([sample.total_s for sample in samples])
    stages_ms = np.array([sample.stages_s for sample in samples]).mean(axis=0) * 1e3 / batch
    p50, p90, p99 = (float(value) for value in np.percentile(totals * 1e3, [50, 90, 99]))
    decode, letterbox, infer, post = (float(value) for value in stages_ms)
    images_per_s = batch / float(totals.mean())
    bare_images_per_s = batch / float(np.mean(bare_s))
    return BenchResult(
        images_per_s=images_per_s,
        latency_ms=Percentiles(p50=p50, p90=p90, p99=p99),
        stages_ms=StageMeans(decode=decode, letterbox=letterbox, infer=infer, post=post),
        bare_images_per_s=bare_images_per_s,
        efficiency=images_per_s / bare_images_per_s,
        batch=batch,
        calls=len(samples),
    )
