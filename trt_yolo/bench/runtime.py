"""What the runtime costs by itself, and what it makes of a model beside its peers.

Enters: nothing, or a model and images. Leaves: a `RuntimeResult`. Whatever is compared is measured in turn, window
by window, and a ratio is the median of the windows' ratios: the machine's speed cancels out. Prints nothing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import Backend
from trt_yolo.backends.null import null_from_manifest
from trt_yolo.bench.images import letterboxed
from trt_yolo.bench.loads import Scenario, timed_for
from trt_yolo.bench.peers import PeerOptions, why_not
from trt_yolo.bench.peers.process import PeerProcess
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.scope_engine import bare_calls
from trt_yolo.media.images import decode_image
from trt_yolo.runtime.job import Job, Thresholds, detections_of_batch
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.process import RingOptions
from trt_yolo.runtime.ring import Ring
from trt_yolo.runtime.worker import BackendSpec
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

IMGSZ = 640
RING_BATCH = 8
SLOTS = 4
MEMORY_FRAMES = 20_000

_FRAMES = 32
_WINDOWS = 5
_RING_WINDOWS = 9
_RING_FRAMES = 2_000
_QUEUE_S = 0.5
_CALLS = 200
_MEMORY_STEP = 250
_PARTS_S = 0.5

OnStart = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class RingCost:
    """One worker that computes nothing, 640x640 frames that are already decoded.

    Attributes:
        frames_per_s: Through the ring, to `Detections`.
        copy_frames_per_s: The same frames copied into the same slots, and nothing else.
        queue_frames_per_s: The same frames pickled through multiprocessing.Queue.
        ring_vs_copy: Median of the windows' ratios.
        ring_vs_queue: Median of the windows' ratios.
        added_latency_ms: One frame, p50: through a worker, less the same work done by a plain call.
        plain_latency_ms: That plain call, p50.
        shared_memory_bytes: Of the ring.
        rss_slope_bytes_per_frame: How resident memory of program and worker grows over `MEMORY_FRAMES` frames,
            the median of the slopes between all pairs of readings (Theil and Sen): one block that the allocator
            takes is no leak.
        rss_growth_bytes: From the first to the last reading.
    """

    frames_per_s: float
    copy_frames_per_s: float
    queue_frames_per_s: float
    ring_vs_copy: float
    ring_vs_queue: float
    added_latency_ms: float
    plain_latency_ms: float
    shared_memory_bytes: int
    rss_slope_bytes_per_frame: float
    rss_growth_bytes: int


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """A model from image files to `Detections`.

    Attributes:
        images_per_s: The runtime.
        limit_images_per_s: Workers / (bare inference + decode + letterbox), each measured alone on one core.
        ultralytics_images_per_s: Ultralytics' predict on its ONNX export; None where it was not measured.
        seed_images_per_s: As many processes with an Ultralytics model each; None where it was not measured.
        e2e_vs_limit: Median of the windows' ratios.
        e2e_vs_ultralytics: Median of the windows' ratios, or None.
        e2e_vs_seed: Median of the windows' ratios, or None.
        workers: Worker processes.
        threads: CPU threads of each.
    """

    images_per_s: float
    limit_images_per_s: float
    ultralytics_images_per_s: float | None
    seed_images_per_s: float | None
    e2e_vs_limit: float
    e2e_vs_ultralytics: float | None
    e2e_vs_seed: float | None
    workers: int
    threads: int


def null_manifest(batch: int) -> Manifest:
    """What the null backend stands for: a COCO model of 640x640."""
    return Manifest(
        graph="deploy",
        names={index: f"class{index}" for index in range(80)},
        imgsz_hw=(IMGSZ, IMGSZ),
        batch=BatchRange(1, batch),
        rows=512,
        anchors=8400,
    )


def null_model(batch: int, *, workers: int) -> Model:
    """A runtime around the null backend."""
    factory = "trt_yolo.backends.null:null_from_manifest"
    spec = BackendSpec(factory=factory, options={"manifest": null_manifest(batch).to_json()})
    return Model(Pool(spec, RuntimeOptions(workers=workers, slots=SLOTS)))


def bench_ring(on_start: OnStart = lambda _: None) -> RingCost:
    """Measures the ring by itself. Takes about a minute.

    Args:
        on_start: Called with what is measured next.
    """
    frames = [np.full((IMGSZ, IMGSZ, 3), number, np.uint8) for number in range(_FRAMES)]
    rates: dict[str, list[float]] = {"ring": [], "copy": [], "queue": []}
    on_start("the ring, a bare copy, a queue")
    with (
        null_model(RING_BATCH, workers=1) as model,
        PeerProcess("queue", PeerOptions(imgsz=[IMGSZ, IMGSZ])) as peer,
    ):
        copy = _copier(frames)
        for _ in range(_RING_WINDOWS):
            rates["ring"].append(_stream_rate(model, frames))
            rates["copy"].append(copy())
            rates["queue"].append(peer.window(_QUEUE_S).images_per_s)
        shared_memory = model.stats().shared_memory_bytes
        on_start("memory")
        slope, growth = _rss_slope(model, frames)
    on_start("latency")
    added_ms, plain_ms = _latencies(frames)
    return RingCost(
        frames_per_s=float(np.median(rates["ring"])),
        copy_frames_per_s=float(np.median(rates["copy"])),
        queue_frames_per_s=float(np.median(rates["queue"])),
        ring_vs_copy=_median_ratio(rates["ring"], rates["copy"]),
        ring_vs_queue=_median_ratio(rates["ring"], rates["queue"]),
        added_latency_ms=added_ms,
        plain_latency_ms=plain_ms,
        shared_memory_bytes=shared_memory,
        rss_slope_bytes_per_frame=slope,
        rss_growth_bytes=growth,
    )


def bench_end_to_end(
    model: Model,
    bare: Backend,
    paths: Sequence[Path],
    *,
    weights: Path | None,
    seconds: float,
    on_start: OnStart = lambda _: None,
) -> EndToEnd:
    """Measures a model beside what limits it, and beside its peers where Ultralytics is installed.

    Args:
        model: With its workers.
        bare: The same model, with as many threads as one worker has.
        paths: Readable image files, taken round and round.
        weights: The checkpoint, for the peers; None: without them.
        seconds: For all windows together, roughly.
        on_start: Called with what is measured next.

    Raises:
        BackendError: A peer has ended.
    """
    workers = max(1, model.workers)
    options = PeerOptions(
        imgsz=list(model.manifest.imgsz_hw),
        images=[str(path) for path in paths],
        weights=str(weights),
        workers=workers,
        threads=model.threads,
    )
    rates: dict[str, list[float]] = {"ours": [], "limit": []}
    with contextlib.ExitStack() as stack:
        peers = {}
        for name in ("ultralytics", "seed"):
            if why_not(name, weights=weights) is not None:
                continue
            on_start(f"starting {name}")
            peers[name] = stack.enter_context(PeerProcess(name, options))
        ours = FilesToDetections(model, paths, Scenario(name="offline"))
        window_s = seconds / _WINDOWS / (2 + len(peers))
        ours.window(_PARTS_S)
        for window in range(_WINDOWS):
            on_start(f"images, window {window + 1} of {_WINDOWS}")
            rates["ours"].append(ours.window(window_s).images_per_s)
            rates["limit"].append(workers / _parts_s(bare, paths, window_s))
            for name, peer in peers.items():
                rates.setdefault(name, []).append(peer.window(window_s).images_per_s)
    return _end_to_end(rates, workers=model.workers, threads=model.threads)


def summary(ring: RingCost, end_to_end: EndToEnd | None) -> dict[str, Any]:
    """One flat object for JSON, rounded to what was measured; what was not measured is None."""
    missing = ("e2e_vs_limit", "e2e_vs_ultralytics", "e2e_vs_seed")
    values = {**asdict(ring), **(asdict(end_to_end) if end_to_end is not None else dict.fromkeys(missing))}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def _end_to_end(rates: dict[str, list[float]], *, workers: int, threads: int) -> EndToEnd:
    def rate(name: str) -> float | None:
        return float(np.median(rates[name])) if name in rates else None

    def ratio(name: str) -> float | None:
        return _median_ratio(rates["ours"], rates[name]) if name in rates else None

    return EndToEnd(
        images_per_s=float(np.median(rates["ours"])),
        limit_images_per_s=float(np.median(rates["limit"])),
        ultralytics_images_per_s=rate("ultralytics"),
        seed_images_per_s=rate("seed"),
        e2e_vs_limit=_median_ratio(rates["ours"], rates["limit"]),
        e2e_vs_ultralytics=ratio("ultralytics"),
        e2e_vs_seed=ratio("seed"),
        workers=workers,
        threads=threads,
    )


def _stream_rate(model: Model, frames: Sequence[npt.NDArray[np.uint8]]) -> float:
    sent = list(itertools.islice(itertools.cycle(frames), _RING_FRAMES))
    start_s = time.perf_counter()
    for result in model.stream(sent):
        if result.detections.class_id[0] != result.index % _FRAMES:  # the null backend says which it was
            raise AssertionError(f"frame {result.index} came back as another")
    return _RING_FRAMES / (time.perf_counter() - start_s)


def _copier(frames: Sequence[npt.NDArray[np.uint8]]) -> Callable[[], float]:
    """Measures the bare copy of the frames into a ring of the same shape, frames/s."""
    ring = Ring.create(RingOptions(slots=SLOTS).shape(null_manifest(RING_BATCH)))
    places = [frame for slot in ring.slots for frame in slot.frames]
    pairs = [(places[n % len(places)], frames[n % len(frames)]) for n in range(_RING_FRAMES)]

    def copy() -> float:
        start_s = time.perf_counter()
        for place, frame in pairs:
            place[:] = frame
        return len(pairs) / (time.perf_counter() - start_s)

    return copy


def _rss_slope(model: Model, frames: Sequence[npt.NDArray[np.uint8]]) -> tuple[float, int]:
    """Growth of resident memory: bytes a frame, and bytes in all, after a settling tenth."""
    pids = [os.getpid(), *(worker.pid for worker in model.stats().workers)]
    sizes = np.zeros(-(-MEMORY_FRAMES // _MEMORY_STEP), np.int64)  # a list would grow, and be measured too
    sent = list(itertools.islice(itertools.cycle(frames), MEMORY_FRAMES))
    for result in model.stream(sent):
        if result.index % _MEMORY_STEP == 0:
            sizes[result.index // _MEMORY_STEP] = sum(_rss_bytes(pid) for pid in pids)
    sizes = sizes[len(sizes) // 10 :]
    counts = np.arange(len(sizes)) * _MEMORY_STEP
    earlier, later = np.triu_indices(len(counts), 1)
    slopes = (sizes[later] - sizes[earlier]) / (counts[later] - counts[earlier])
    return float(np.median(slopes)), int(sizes[-1] - sizes[0])


def _rss_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _latencies(frames: Sequence[npt.NDArray[np.uint8]]) -> tuple[float, float]:
    """What a worker adds to a plain call, p50, and the plain call's own p50, in milliseconds."""
    plain, cycled = _plain_call(), itertools.cycle(frames)
    added_ms: list[float] = []
    plain_ms: list[float] = []
    with null_model(1, workers=1) as model:
        for window in range(_RING_WINDOWS + 1):
            through_s = [timed_for(functools.partial(model, next(cycled)), 0)[0] for _ in range(_CALLS)]
            plain_s = [timed_for(functools.partial(plain, next(cycled)), 0)[0] for _ in range(_CALLS)]
            if window:  # the first one warms up
                plain_ms.append(float(np.median(plain_s)) * 1e3)
                added_ms.append(float(np.median(through_s)) * 1e3 - plain_ms[-1])
    return float(np.median(added_ms)), float(np.median(plain_ms))


def _plain_call() -> Callable[[npt.NDArray[np.uint8]], object]:
    """Letterbox, backend and post-processing, one after another, with no runtime around them."""
    manifest = null_manifest(1)
    backend = null_from_manifest(manifest.to_json())
    slot = Ring.create(RingOptions(slots=2).shape(manifest)).slots[0]

    def call(frame: npt.NDArray[np.uint8]) -> object:
        job = Job(source=frame, thresholds=Thresholds())
        job.letterbox = fit_letterbox(frame.shape[:2], manifest.imgsz_hw)
        letterbox_into(frame, slot.frames[0], job.letterbox)
        backend.infer_into(slot.frames, slot.rows, count=1, conf=job.thresholds.conf, iou=job.thresholds.iou)
        return detections_of_batch(slot.rows, [job], manifest.names)

    return call


def _parts_s(bare: Backend, paths: Sequence[Path], seconds: float) -> float:
    """Bare inference, decode and letterbox of one image, one after another on one core, in seconds."""
    height, width = bare.manifest.imgsz_hw
    batch = bare.manifest.batch.minimum
    calls = bare_calls(bare, letterboxed(paths, (height, width), max(batch, 8)), batch)
    infer_s = timed_for(lambda: next(calls)(), seconds)
    files = itertools.cycle([path.read_bytes() for path in paths])
    decode_s = timed_for(lambda: decode_image(next(files), name="an image"), min(seconds, _PARTS_S))
    frame: npt.NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
    images: Iterator[Any] = itertools.cycle([decode_image(next(files), name="an image") for _ in paths[:8]])

    def letterbox() -> None:
        image = next(images)
        letterbox_into(image, frame, fit_letterbox(image.shape[:2], (height, width)))

    letterbox_s = timed_for(letterbox, min(seconds, _PARTS_S))
    return float(np.mean(infer_s)) / batch + float(np.mean(decode_s)) + float(np.mean(letterbox_s))


def _median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return float(np.median(np.array(ours) / np.array(theirs)))
