"""What a worker process is like: its cores, its threads, its streams, its import path, its folder."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import trt_yolo
from tests.runtime.models import marked, pids, pool_model, tiny_manifest
from trt_yolo.backends.null import NullBackend
from trt_yolo.demo.scenes import scene
from trt_yolo.hardware.cores import share_cores, usable_cpus
from trt_yolo.runtime import supervisor
from trt_yolo.runtime.ipc import Wake
from trt_yolo.runtime.ring import Ring, RingShape, State, Task
from trt_yolo.runtime.worker import BackendSpec, WorkerSpec, run_slots

pytestmark = pytest.mark.timeout(60)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_the_cores(workers: int) -> None:
    shares = share_cores(usable_cpus(), workers, None)
    with pool_model("Faulty", workers=workers) as model:
        for pid, (cores, _) in zip(pids(model), shares, strict=True):
            assert sorted(os.sched_getaffinity(pid)) == (cores or list(usable_cpus().cores))
        assert model.threads == shares[0][1]


def test_more_threads_than_a_share_has_cores_use_them_all() -> None:
    many = usable_cpus().count + 1
    with pool_model("Faulty", workers=2, threads=many) as model:
        assert model.threads == many
        assert all(sorted(os.sched_getaffinity(pid)) == list(usable_cpus().cores) for pid in pids(model))


def test_onnxruntime_gets_the_threads_of_its_share(demo_onnx: Path) -> None:
    def threads_of(count: int) -> int:
        with trt_yolo.load(demo_onnx, workers=1, threads=count) as model:
            model(scene(0).image_bgr)
            return len(os.listdir(f"/proc/{pids(model)[0]}/task"))

    assert threads_of(3) - threads_of(1) == 2  # the calling thread is the first


def test_a_worker_is_no_copy_of_the_main_script(demo_onnx: Path) -> None:
    with trt_yolo.load(demo_onnx, workers=1) as model:
        command = Path(f"/proc/{pids(model)[0]}/cmdline").read_text().split("\0")
    assert command[:2] == [sys.executable, "-c"]


def test_paths_keep_their_folder(demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_onnx.parent)
    with trt_yolo.load(demo_onnx.name, workers=1) as model:
        monkeypatch.chdir(tmp_path)
        before = model(scene(0).image_bgr)
        os.kill(pids(model)[0], 9)
        assert len(model(scene(0).image_bgr)) == len(before) > 0
        assert model.stats().workers[0].restarts == 1


def test_what_a_worker_prints_is_no_output_of_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    with pool_model("Faulty", workers=1) as model:
        model(marked(1))
    assert capfd.readouterr().out == ""


def test_a_spec_survives_the_way_to_another_process() -> None:
    backend = BackendSpec(factory="a.b:c", options={"delay_ms": 1.5}, takes_threads=True)
    spec = WorkerSpec(backend=backend, threads=2, cores=[0, 3], folder="/tmp")
    assert WorkerSpec.from_dict(spec.to_dict()) == spec


def test_a_stop_is_heeded_between_slots_that_were_announced_together() -> None:
    ring = Ring.create(RingShape(slots=4, batch=1, imgsz_hw=(64, 64), rows=4))
    ready, done = Wake.create(), Wake.create()
    runs: list[int] = []

    class Counting(NullBackend):
        def infer_into(self, *arrays: object, **options: object) -> None:
            runs.append(len(runs))

    for number, slot in enumerate(ring.slots, 1):
        slot.begin()
        slot.publish(Task(number, 1, 0.25, 0.7, time.monotonic_ns()))
        ready.signal()
    run_slots(Counting(tiny_manifest()), ring, ready, done, lambda: len(runs) == 2)
    assert len(runs) == 2
    assert [slot.state for slot in ring.slots] == [State.DONE, State.DONE, State.READY, State.READY]
    for wake in (ready, done):
        wake.close()
    ring.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_backends_say_of_themselves_is_logged(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(supervisor._log, "info", lambda text, *values: said.append(text % values))
    with pool_model("Says", workers=workers) as model:
        assert model.stats().workers[0].about["warm_up"] == "3 batches"
    assert sorted(said) == [
        f"worker {number} is ready: gpu 0: none, warm_up 3 batches" for number in range(max(1, workers))
    ]
