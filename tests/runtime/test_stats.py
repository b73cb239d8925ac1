"""The numbers of a runtime: as they are, as JSON, and as Prometheus reads them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from trt_yolo.errors import MissingDependencyError
from trt_yolo.hardware.nvml import GpuReading
from trt_yolo.runtime.batcher import WorkerQueue
from trt_yolo.runtime.job import Job, StageTimes, Thresholds
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.ring import RingShape
from trt_yolo.runtime.stats import Ledger, SourceStats, Stats, WorkerStats
from trt_yolo.runtime.supervisor import Replica
from trt_yolo.runtime.worker import BackendSpec

SHAPE = RingShape(slots=4, batch=2, imgsz_hw=(32, 64), rows=20)
STATS = Stats(
    seconds=12.5,
    frames=100,
    errors=3,
    dropped=7,
    waiting=2,
    stages_ms=StageTimes(decode=1.5, letterbox=0.25, queue=2.0, infer=20.0, post=0.125),
    shared_memory_bytes=4096,
    workers=(
        WorkerStats(
            worker=0,
            pid=71,
            is_ready=True,
            frames=60,
            batches=30,
            busy=0.75,
            queue=2,
            restarts=0,
            queue_ms=1.0,
            infer_ms=19.0,
        ),
        WorkerStats(
            worker=1,
            pid=0,
            is_ready=False,
            frames=40,
            batches=20,
            busy=0.5,
            queue=0,
            restarts=4,
            queue_ms=3.0,
            infer_ms=21.0,
        ),
    ),
    sources={"camera": SourceStats(frames=50, dropped=7), 'a "b"\\\n日本': SourceStats(frames=1, dropped=0)},
)


def test_as_a_dictionary_it_is_json_and_holds_everything() -> None:
    fields = json.loads(json.dumps(STATS.to_dict()))
    assert fields["frames"] == 100
    assert fields["stages_ms"] == {
        "decode": 1.5,
        "letterbox": 0.25,
        "queue": 2.0,
        "infer": 20.0,
        "post": 0.125,
    }
    assert [worker["restarts"] for worker in fields["workers"]] == [0, 4]
    assert fields["sources"]["camera"] == {"frames": 50, "dropped": 7}
    assert set(fields) == set(Stats.__dataclass_fields__)


def _samples(text: str) -> dict[tuple[str, str], float]:
    """Each sample by its name and the value of its label, as Prometheus reads them."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "label", "value"),
    [
        ("frames_total", "", 100),
        ("errors_total", "", 3),
        ("dropped_total", "", 7),
        ("waiting", "", 2),
        ("shared_memory_bytes", "", 4096),
        ("stage_ms", "decode", 1.5),
        ("stage_ms", "letterbox", 0.25),
        ("stage_ms", "queue", 2),
        ("stage_ms", "infer", 20),
        ("stage_ms", "post", 0.125),
        ("worker_frames_total", "0", 60),
        ("worker_frames_total", "1", 40),
        ("worker_batches_total", "0", 30),
        ("worker_restarts_total", "1", 4),
        ("worker_busy", "0", 0.75),
        ("worker_queue", "0", 2),
        ("worker_queue_ms", "1", 3),
        ("worker_infer_ms", "1", 21),
        ("source_frames_total", "camera", 50),
        ("source_dropped_total", "camera", 7),
        ("source_frames_total", 'a "b"\\\n日本', 1),
    ],
)
def test_prometheus_reads_every_number(name: str, label: str, value: float) -> None:
    assert _samples(STATS.prometheus())["trt_yolo_" + name, label] == value


def test_counters_are_counters_and_gauges_are_gauges() -> None:
    kinds = {family.name: family.type for family in text_string_to_metric_families(STATS.prometheus())}
    counters = {"frames", "errors", "dropped", "worker_frames", "worker_batches", "worker_restarts"}
    counters |= {"source_frames", "source_dropped"}
    assert {name for name, kind in kinds.items() if kind == "counter"} == {f"trt_yolo_{n}" for n in counters}
    assert set(kinds.values()) == {"counter", "gauge"}


def test_asking_prometheus_twice_gives_the_same_text() -> None:
    assert STATS.prometheus() == STATS.prometheus()


GPUS = (
    GpuReading(index=0, utilisation=97.0, power_w=281.5, temperature_c=61, sm_mhz=1710, throttled_by=()),
    GpuReading(index=3, memory_used_bytes=5 << 30, throttled_by=("power limit", "temperature")),
)


def test_prometheus_reads_what_gpus_say_and_nothing_else() -> None:
    samples = {
        key: value
        for key, value in _gpu_samples(dataclasses.replace(STATS, gpus=GPUS).prometheus()).items()
        if key[0].startswith("trt_yolo_gpu_")
    }
    assert samples == {
        ("trt_yolo_gpu_utilisation", "0", ""): 97.0,
        ("trt_yolo_gpu_power_w", "0", ""): 281.5,
        ("trt_yolo_gpu_temperature_c", "0", ""): 61.0,
        ("trt_yolo_gpu_sm_mhz", "0", ""): 1710.0,
        ("trt_yolo_gpu_memory_used_bytes", "3", ""): float(5 << 30),
        ("trt_yolo_gpu_throttled", "3", "power limit"): 1.0,
        ("trt_yolo_gpu_throttled", "3", "temperature"): 1.0,
    }
    assert "trt_yolo_gpu" not in STATS.prometheus()


def _gpu_samples(text: str) -> dict[tuple[str, str, str], float]:
    return {
        (sample.name, sample.labels.get("gpu", ""), sample.labels.get("reason", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_gpus_are_in_the_dictionary_too() -> None:
    gpus = dataclasses.replace(STATS, gpus=GPUS).to_dict()["gpus"]
    assert [one["index"] for one in json.loads(json.dumps(gpus))] == [0, 3]
    assert gpus[0]["power_w"] == 281.5
    assert gpus[0]["memory_used_bytes"] is None


def test_a_model_says_what_its_gpus_say(monkeypatch: pytest.MonkeyPatch, demo_onnx: Path) -> None:
    """Of the devices that its workers use, asked when `stats` is; a model on the CPU asks nobody."""
    asked: list[tuple[int, ...]] = []

    def readings(indices: tuple[int, ...]) -> list[GpuReading]:
        asked.append(tuple(indices))
        return [GpuReading(index=index, power_w=10.0 * len(asked)) for index in indices]

    monkeypatch.setattr("trt_yolo.runtime.pool.gpu_readings", readings)
    backend = {
        "factory": "trt_yolo.backends.onnxruntime:OnnxRuntimeBackend",
        "options": {"model": str(demo_onnx)},
    }
    pool = Pool(BackendSpec(**backend, takes_threads=True), RuntimeOptions())
    with Model(pool) as model:
        assert model.stats().gpus == ()
        assert asked == []
        pool._backend = BackendSpec(**backend, devices=(0, 2))
        assert [one.power_w for one in model.stats().gpus] == [10.0, 10.0]
        assert [one.index for one in model.stats().gpus] == [0, 2]
        assert asked == [(0, 2), (0, 2)]


def test_without_prometheus_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingDependencyError, match=r"prometheus-client: pip install 'trt-yolo\[metrics\]'"):
        STATS.prometheus()


def _replica(number: int = 0, *, is_ready: bool = True, in_flight: int = 0, restarts: int = 0) -> Replica:
    worker: Any = SimpleNamespace(
        pid=70 + number, is_ready=is_ready, ring=SimpleNamespace(shape=SHAPE), about={}
    )
    queue = WorkerQueue(number)
    queue.in_flight.update(dict.fromkeys(range(in_flight)))  # type: ignore[arg-type]
    return Replica(queue, worker=worker, restarts=restarts)


def _job(decode_ms: float, letterbox_ms: float) -> Job:
    job = Job(source=np.zeros((1, 1, 3), np.uint8), thresholds=Thresholds())
    job.decode_ms, job.letterbox_ms = decode_ms, letterbox_ms
    return job


def test_a_new_ledger_has_nothing_and_divides_by_nothing() -> None:
    stats = Ledger(1).stats([_replica()], waiting=0)
    assert (stats.frames, stats.errors, stats.dropped, stats.waiting) == (0, 0, 0, 0)
    assert stats.stages_ms == StageTimes()
    (worker,) = stats.workers
    assert (worker.pid, worker.frames, worker.queue_ms, worker.infer_ms, worker.busy) == (70, 0, 0, 0, 0)
    assert stats.sources == {}
    assert stats.seconds >= 0


def test_a_ledger_means_over_images_and_over_batches() -> None:
    ledger = Ledger(2)
    ledger.note_batch(0, [_job(4, 1), _job(0, 3)], queue_ms=2, infer_ms=10, post_ms=0.5)
    ledger.note_batch(0, [_job(2, 2)], queue_ms=5, infer_ms=4, post_ms=2)
    ledger.note_batch(1, [_job(0, 0)], queue_ms=1, infer_ms=8, post_ms=1)
    ledger.errors += 1
    stats = ledger.stats([_replica(0, in_flight=3), _replica(1, restarts=2)], waiting=9)
    assert (stats.frames, stats.errors, stats.waiting) == (4, 1, 9)
    assert stats.stages_ms == StageTimes(decode=1.5, letterbox=1.5, queue=2.5, infer=8.0, post=1.0)
    first, second = stats.workers
    assert (first.frames, first.batches, first.queue_ms, first.infer_ms) == (3, 2, 3.5, 7.0)
    assert (second.frames, second.batches, second.queue_ms, second.infer_ms) == (1, 1, 1.0, 8.0)
    assert (first.queue, second.queue, first.restarts, second.restarts) == (3, 0, 0, 2)


def test_a_batch_that_nobody_waits_for_any_more_counts_as_a_batch() -> None:
    ledger = Ledger(1)
    ledger.note_batch(0, [], queue_ms=1, infer_ms=1, post_ms=1)
    stats = ledger.stats([_replica()], waiting=0)
    assert (stats.frames, stats.workers[0].batches) == (0, 1)


def test_a_worker_is_never_busier_than_busy() -> None:
    ledger = Ledger(1)
    ledger.note_batch(0, [_job(0, 0)], queue_ms=0, infer_ms=1e9, post_ms=0)
    assert ledger.stats([_replica()], waiting=0).workers[0].busy == 1


def test_shared_memory_is_that_of_the_workers_there_are() -> None:
    replicas = [_replica(0), _replica(1), Replica(WorkerQueue(2))]
    stats = Ledger(3).stats(replicas, waiting=0)
    assert stats.shared_memory_bytes == 2 * SHAPE.total_bytes
    assert (stats.workers[2].pid, stats.workers[2].is_ready) == (0, False)


def test_a_worker_that_still_loads_has_no_memory_yet() -> None:
    replica = _replica(is_ready=False)
    assert replica.worker is not None
    replica.worker.ring = None
    stats = Ledger(1).stats([replica], waiting=0)
    assert (stats.shared_memory_bytes, stats.workers[0].is_ready) == (0, False)


def test_sources_are_counted_by_name_and_drops_altogether() -> None:
    ledger = Ledger(1)
    ledger.note_source("left", frames=1, dropped=0, newly_dropped=False)
    ledger.note_source("left", frames=5, dropped=2, newly_dropped=True)
    ledger.note_source(None, frames=9, dropped=4, newly_dropped=True)
    stats = ledger.stats([_replica()], waiting=0)
    assert stats.sources == {"left": SourceStats(frames=5, dropped=2)}
    assert stats.dropped == 2


def test_numbers_once_taken_do_not_move() -> None:
    ledger = Ledger(1)
    before = ledger.stats([_replica()], waiting=0)
    ledger.note_source("left", frames=1, dropped=0, newly_dropped=False)
    ledger.note_batch(0, [_job(1, 1)], queue_ms=1, infer_ms=1, post_ms=1)
    assert (before.frames, before.sources) == (0, {})
