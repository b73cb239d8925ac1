"""Workers whose backend has several batches under way: same answers, nobody lost, nobody convicted by mistake."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.flying import Flying
from tests.runtime.models import Killer, marked, poison, tiny_manifest, wait_until
from trt_yolo.errors import BackendError, ClosedError, FrameError
from trt_yolo.runtime.ipc import Wake
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.process import WorkerProcess
from trt_yolo.runtime.ring import Ring, RingShape, State, Task
from trt_yolo.runtime.worker import BackendSpec, run_slots

pytestmark = pytest.mark.timeout(60)

FRAMES = 120


def _model(
    factory: str = "Flying", *, batch: int = 1, options: dict[str, Any] | None = None, **pool: Any
) -> Model:
    given = {"manifest": tiny_manifest(batch).to_json(), "jitter_ms": 4.0, **(options or {})}
    spec = BackendSpec(factory=f"tests.runtime.flying:{factory}", options=given)
    return Model(Pool(spec, RuntimeOptions(**{"workers": 1, "decode_threads": 2, "slots": 6, **pool})))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_frame_gets_its_own_answer(workers: int, batch: int, ordered: bool) -> None:
    with _model(batch=batch, workers=workers) as model:
        results = list(model.stream([marked(index) for index in range(FRAMES)], ordered=ordered))
    if ordered:
        assert [result.index for result in results] == list(range(FRAMES))
    assert sorted(result.index for result in results) == list(range(FRAMES))
    assert [result.error for result in results] == [None] * FRAMES
    assert all(result.detections.class_id[0] == result.index for result in results)


class _Served:
    """`run_slots` in a thread, over a ring of one frame a slot."""

    def __init__(self, backend: Flying, *, slots: int) -> None:
        self.ring = Ring.create(RingShape(slots=slots, batch=1, imgsz_hw=(64, 64), rows=4))
        self.ready, self.done = Wake.create(), Wake.create()
        self.stopped = threading.Event()
        self._sequence = 0
        arguments = (backend, self.ring, self.ready, self.done, self.stopped.is_set)
        self.thread = threading.Thread(target=run_slots, args=arguments, daemon=True)

    def publish(self, index: int, *, alone: bool = False) -> None:
        slot = self.ring.slots[index]
        self._sequence += 1
        slot.begin()
        slot.frames[:] = marked(index)
        slot.publish(Task(self._sequence, 1, 0.25, 0.7, time.monotonic_ns(), alone=alone))
        self.ready.signal()

    def await_done(self, count: int) -> None:
        done = 0
        while done < count:
            done += self.done.wait()

    def stop(self) -> None:
        self.stopped.set()
        self.ready.signal()
        self.thread.join(5)
        assert not self.thread.is_alive()
        self.ring.close()
        self.ready.close()
        self.done.close()


def _flying(**options: Any) -> Flying:
    return Flying(manifest=tiny_manifest().to_json(), **options)


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_as_many_as_the_backend_can(at_once: int) -> None:
    backend = _flying(at_once=at_once)
    backend.hold.clear()
    served = _Served(backend, slots=6)
    for index in range(6):
        served.publish(index)
    served.thread.start()
    assert wait_until(lambda: backend.most == min(at_once, 6))
    backend.hold.set()
    served.await_done(6)
    assert {slot.state for slot in served.ring.slots} == {State.DONE}
    assert backend.most == min(at_once, 6)
    served.stop()


def test_what_comes_later_is_begun_beside_what_runs() -> None:
    backend = _flying(at_once=2)
    backend.hold.clear()
    served = _Served(backend, slots=2)
    served.thread.start()
    for number in range(2):
        served.publish(number)
        assert wait_until(lambda number=number: backend.most == number + 1)
    backend.hold.set()
    served.await_done(2)
    served.stop()


def test_nothing_runs_beside_what_is_to_be_alone() -> None:
    backend = _flying(at_once=3, delay_ms=20)
    served = _Served(backend, slots=6)
    for index in range(6):
        served.publish(index, alone=index in (1, 2, 4))
    served.thread.start()
    served.await_done(6)
    assert backend.most == 1  # 0 | 1 alone | 2 alone | 3 | 4 alone | 5
    served.stop()


def test_a_stop_does_not_wait_for_what_is_under_way() -> None:
    backend = _flying(at_once=3)
    backend.hold.clear()
    served = _Served(backend, slots=6)
    for index in range(6):
        served.publish(index)
    served.thread.start()
    assert wait_until(lambda: backend.most == 3)
    served.stop()
    backend.hold.set()


@pytest.mark.parametrize("workers", [0, 1])
def test_the_backend_is_given_the_memory_of_the_slots(workers: int) -> None:
    with _model("Adopts", workers=workers) as model:
        assert model(marked(3)).class_id[0] == 3


@pytest.mark.parametrize("factory", ["FlyingRefuses", "RefusesToBegin"])
@pytest.mark.parametrize("batch", [1, 4])
def test_an_error_is_its_frames_alone(factory: str, batch: int) -> None:
    images = [poison() if index == 17 else marked(index) for index in range(60)]
    with _model(factory, batch=batch) as model:
        results = list(model.stream(images))
        assert [result.index for result in results if result.error is not None] == [17]
        assert isinstance(results[17].error, BackendError)
        assert model.stats().workers[0].restarts == 0


def test_a_lost_device_ends_the_worker_and_no_frame(tmp_path: Path) -> None:
    images = [poison() if index == 17 else marked(index) for index in range(60)]
    with _model("FlyingLosesDevice", options={"once": str(tmp_path / "once")}) as model:
        results = list(model.stream(images))
        assert [result.error for result in results] == [None] * 60
        assert model.stats().workers[0].restarts == 1


def test_killed_workers_lose_nothing() -> None:
    with _model(workers=2, batch=2, options={"delay_ms": 5}) as model, Killer(model, most=4):
        results = list(model.stream([marked(index) for index in range(400)]))
    assert [result.error for result in results] == [None] * 400
    assert all(result.detections.class_id[0] == result.index % 250 for result in results)


@pytest.mark.parametrize("batch", [1, 4])
def test_only_the_frame_that_crashes_is_convicted(batch: int) -> None:
    images = [poison() if index in (20, 41) else marked(index) for index in range(60)]
    with _model("FlyingCrashes", batch=batch, options={"delay_ms": 3}) as model:
        results = list(model.stream(images))
        restarts = model.stats().workers[0].restarts
    assert [result.index for result in results if result.error is not None] == [20, 41]
    assert all(isinstance(results[index].error, FrameError) for index in (20, 41))
    assert restarts <= 6  # at most once among others and twice alone, each


def test_a_worker_leaves_by_itself_although_batches_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[WorkerProcess] = []
    monkeypatch.setattr(WorkerProcess, "kill", lambda worker: killed.append(worker))
    with _model("FlyingHangs") as model:
        futures = [model.submit(poison()) for _ in range(6)]
        queue = model._pool._supervisor.replicas[0].queue
        assert wait_until(
            lambda: [one.slot.state for one in queue.in_flight.values()].count(State.RUNNING) == 3
        )
        model._pool.close(drain=False)
    assert {type(future.exception(0)) for future in futures} == {ClosedError}
    assert killed == []
