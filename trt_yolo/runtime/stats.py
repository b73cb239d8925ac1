"""What a runtime has done so far: numbers for people, for JSON and for Prometheus."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_yolo.errors import MissingDependencyError
from trt_yolo.hardware.nvml import GpuReading
from trt_yolo.runtime.job import Job, StageTimes
from trt_yolo.runtime.supervisor import Replica

_STAGES = dataclasses.fields(StageTimes)


@dataclass(frozen=True, kw_only=True)
class WorkerStats:
    """What one worker has done, over all the processes that served as it.

    Attributes:
        worker: Its number, from 0.
        pid: Of its process now; the program's own with `workers=0`; 0 while it is being replaced.
        is_ready: Whether it takes frames now.
        frames: Answered.
        batches: Answered.
        busy: Share of the time since the start that it spent in the backend, 0 to 1.
        queue: Batches that it has now, the running one included.
        restarts: How often it was replaced.
        queue_ms: What a batch waited for it, mean, in milliseconds.
        infer_ms: What a batch took in the backend, mean, in milliseconds.
        about: What its backend says of itself: on a GPU which, how slots reach it, and whether graphs are captured;
            on the CPU how many threads it has, and whether they spin.
    """

    worker: int
    pid: int
    is_ready: bool
    frames: int
    batches: int
    busy: float
    queue: int
    restarts: int
    queue_ms: float
    infer_ms: float
    about: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SourceStats:
    """What came of a stream.

    Attributes:
        frames: Read from it.
        dropped: Of those, thrown away because the runtime could not keep up.
    """

    frames: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What a runtime has done since it was loaded.

    Attributes:
        seconds: Since then.
        frames: Answered with detections.
        errors: Answered with an error.
        dropped: Thrown away by streams that may.
        waiting: Frames that are under way now.
        stages_ms: What an image took in each stage, mean, in milliseconds.
        shared_memory_bytes: Of all rings: slots x (batch x frame + rows + header), for each worker.
        workers: Each worker.
        sources: Each stream that was given a name, by that name.
        gpus: Each GPU that its workers use, as it is at this moment, by NVML; what it does not say is None.
    """

    seconds: float
    frames: int
    errors: int
    dropped: int
    waiting: int
    stages_ms: StageTimes
    shared_memory_bytes: int
    workers: tuple[WorkerStats, ...]
    sources: Mapping[str, SourceStats]
    gpus: tuple[GpuReading, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def prometheus(self) -> str:
        """The same in Prometheus' text format, for a `/metrics` page.

        Raises:
            MissingDependencyError: prometheus-client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, generate_latest
        except ImportError as error:
            raise MissingDependencyError(
                "Prometheus text needs the package prometheus-client: pip install 'trt-yolo[metrics]'"
            ) from error
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self))
        return str(generate_latest(registry), "utf-8")


class _Collector:
    """Hands a `Stats` to prometheus-client."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def describe(self) -> list[Any]:
        """Nothing beforehand: what is there is said by `collect`."""
        return []

    def collect(self) -> Iterator[Any]:
        """Each family with its samples."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self._stats
        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for kind, name, text, value in (
            ("counter", "frames", "Frames answered with detections.", stats.frames),
            ("counter", "errors", "Frames answered with an error.", stats.errors),
            ("counter", "dropped", "Frames thrown away.", stats.dropped),
            ("gauge", "waiting", "Frames under way.", stats.waiting),
            ("gauge", "shared_memory_bytes", "Shared memory of all rings.", stats.shared_memory_bytes),
        ):
            yield kinds[kind](f"trt_yolo_{name}", text, value=value)
        stages = GaugeMetricFamily("trt_yolo_stage_ms", "Mean time of an image.", labels=["stage"])
        for stage, mean_ms in dataclasses.asdict(stats.stages_ms).items():
            stages.add_metric([stage], mean_ms)
        yield stages
        for kind, name, text in (
            ("counter", "frames", "Frames answered by a worker."),
            ("counter", "batches", "Batches answered by a worker."),
            ("counter", "restarts", "How often a worker was replaced."),
            ("gauge", "busy", "Share of its time in the backend."),
            ("gauge", "queue", "Batches that a worker has."),
            ("gauge", "queue_ms", "Mean wait of a batch."),
            ("gauge", "infer_ms", "Mean time of a batch in the backend."),
        ):
            family = kinds[kind](f"trt_yolo_worker_{name}", text, labels=["worker"])
            for worker in stats.workers:
                family.add_metric([str(worker.worker)], getattr(worker, name))
            yield family
        for name, text in (("frames", "Frames read."), ("dropped", "Frames thrown away.")):
            family = CounterMetricFamily(f"trt_yolo_source_{name}", text, labels=["source"])
            for source, counts in stats.sources.items():
                family.add_metric([source], getattr(counts, name))
            yield family
        yield from _gpu_families(stats.gpus)


def _gpu_families(gpus: Sequence[GpuReading]) -> Iterator[Any]:
    """What GPUs say of themselves; a family is left out where none of them says it."""
    from prometheus_client.core import GaugeMetricFamily

    for name, text in (
        ("utilisation", "Percent of the last moments in which something ran."),
        ("memory_used_bytes", "Memory in use, by whoever."),
        ("sm_mhz", "Clock of its processors."),
        ("memory_mhz", "Clock of its memory."),
        ("power_w", "What it draws."),
        ("temperature_c", "How hot it is."),
    ):
        known = [(gpu.index, value) for gpu in gpus if (value := getattr(gpu, name)) is not None]
        if known:
            family = GaugeMetricFamily(f"trt_yolo_gpu_{name}", text, labels=["gpu"])
            for index, value in known:
                family.add_metric([str(index)], value)
            yield family
    reasons = [(gpu.index, reason) for gpu in gpus for reason in gpu.throttled_by or ()]
    if reasons:
        family = GaugeMetricFamily(
            "trt_yolo_gpu_throttled", "1 while its clocks are held back.", labels=["gpu", "reason"]
        )
        for index, reason in reasons:
            family.add_metric([str(index), reason], 1)
        yield family


@dataclass(eq=False, slots=True)
class _Totals:
    """What one worker has done."""

    frames: int = 0
    batches: int = 0
    queue_ms: float = 0.0
    infer_ms: float = 0.0


class Ledger:
    """Counts what a pool does. `note_batch` is called by one thread at a time.

    Args:
        workers: How many there are.

    Attributes:
        errors: Frames answered with an error.
    """

    def __init__(self, workers: int) -> None:
        self.errors = 0
        self._born_s = time.monotonic()
        self._frames = self._dropped = 0
        self._stages_ms = [0.0] * len(_STAGES)
        self._totals = [_Totals() for _ in range(workers)]
        self._sources: dict[str, SourceStats] = {}

    def note_batch(
        self, worker: int, jobs: Sequence[Job], queue_ms: float, infer_ms: float, post_ms: float
    ) -> None:
        """Counts a batch that a worker has answered, and what its stages took; `post_ms` is that of one job."""
        frames, totals, stages_ms = len(jobs), self._totals[worker], self._stages_ms
        for job in jobs:
            stages_ms[0] += job.decode_ms
            stages_ms[1] += job.letterbox_ms
        for stage, spent_ms in enumerate((queue_ms, infer_ms, post_ms), start=2):
            stages_ms[stage] += spent_ms * frames
        self._frames += frames
        totals.frames += frames
        totals.batches += 1
        totals.queue_ms += queue_ms
        totals.infer_ms += infer_ms

    def note_source(self, name: str | None, *, frames: int, dropped: int, newly_dropped: bool) -> None:
        """Notes how far a stream has got, and whether it has just dropped a frame."""
        self._dropped += newly_dropped
        if name is not None:
            self._sources[name] = SourceStats(frames=frames, dropped=dropped)

    def stats(self, replicas: Sequence[Replica], *, waiting: int, gpus: Sequence[GpuReading] = ()) -> Stats:
        """The numbers as they are now."""
        seconds, frames = time.monotonic() - self._born_s, max(1, self._frames)
        rings = [replica.worker.ring for replica in replicas if replica.worker is not None]
        return Stats(
            seconds=seconds,
            frames=self._frames,
            errors=self.errors,
            dropped=self._dropped,
            waiting=waiting,
            stages_ms=StageTimes(*(stage_ms / frames for stage_ms in self._stages_ms)),
            shared_memory_bytes=sum(ring.shape.total_bytes for ring in rings if ring is not None),
            workers=tuple(
                _worker_stats(replica, totals, seconds)
                for replica, totals in zip(replicas, self._totals, strict=True)
            ),
            sources=dict(self._sources),
            gpus=tuple(gpus),
        )


def _worker_stats(replica: Replica, totals: _Totals, seconds: float) -> WorkerStats:
    worker, batches = replica.worker, max(1, totals.batches)
    return WorkerStats(
        worker=replica.queue.number,
        pid=worker.pid if worker is not None else 0,
        is_ready=worker is not None and worker.is_ready,
        frames=totals.frames,
        batches=totals.batches,
        busy=min(1.0, totals.infer_ms / 1e3 / seconds),
        queue=len(replica.queue.in_flight),
        restarts=replica.restarts,
        queue_ms=totals.queue_ms / batches,
        infer_ms=totals.infer_ms / batches,
        about=dict(worker.about) if worker is not None else {},
    )
