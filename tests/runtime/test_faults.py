"""Workers that are killed, crash, hang, lie or never start: every frame is answered once, and nothing is left."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import trt_yolo
from tests.runtime.models import (
    MARKS,
    Image,
    Killer,
    children,
    is_running,
    kill_one,
    marked,
    pids,
    poison,
    pool_model,
    wait_until,
)
from trt_yolo.errors import (
    BackendError,
    ClosedError,
    FrameError,
    InputError,
    TrtYoloError,
    WorkerError,
)
from trt_yolo.runtime import ring, supervisor
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.results import Result

pytestmark = pytest.mark.timeout(60)

MANY_RESTARTS = 10_000


def _class(result: Result) -> int:
    return int(result.detections.class_id[0])


def _assert_all_answered(results: list[Result], count: int) -> None:
    """Each of `count` frames once, in order, without error and with its own answer."""
    assert [result.index for result in results] == list(range(count))
    assert [result.error for result in results if result.error is not None] == []
    assert [_class(result) for result in results] == [index % MARKS for index in range(count)]


def _restarts(model: Model) -> int:
    return sum(worker.restarts for worker in model.stats().workers)


def _call_again_and_again(model: Model) -> None:
    for _ in range(1000):
        model(marked(0))


class Source:
    """Marked frames until it is told to stop; counts them."""

    def __init__(self) -> None:
        self.count = 0
        self.stopped = threading.Event()

    def __iter__(self) -> Iterator[Image]:
        while not self.stopped.is_set():
            yield marked(self.count)
            self.count += 1


@pytest.mark.parametrize(
    ("ordered", "batch", "kills"),
    [
        (True, 4, 5),
        (False, 1, 5),
        pytest.param(True, 1, 50, marks=pytest.mark.slow),
        pytest.param(False, 1, 20, marks=pytest.mark.slow),
        pytest.param(True, 4, 20, marks=pytest.mark.slow),
    ],
)
def test_no_frame_is_lost_or_doubled_while_workers_are_killed(ordered: bool, batch: int, kills: int) -> None:
    source = Source()
    with pool_model(
        "Faulty", {"delay_ms": 2}, batch=batch, workers=2, max_restarts=MANY_RESTARTS, slots=3
    ) as model:
        with Killer(model, most=kills, on_end=source.stopped.set) as killer:
            results = list(model.stream(source, ordered=ordered))
        assert killer.kills == kills
        assert wait_until(lambda: _restarts(model) == kills)
        assert (model.stats().errors, model.stats().waiting) == (0, 0)
    _assert_all_answered(results if ordered else sorted(results, key=lambda one: one.index), source.count)
    assert children() == set()


def test_calls_lists_and_futures_survive_kills_too() -> None:
    stopped = threading.Event()
    with (
        pool_model("Faulty", {"delay_ms": 1}, batch=4, workers=2, max_restarts=MANY_RESTARTS) as model,
        Killer(model, most=5, on_end=stopped.set),
    ):
        while not stopped.is_set():
            futures = [model.submit(marked(index)) for index in range(10)]
            assert [found.class_id[0] for found in model([marked(index) for index in range(9)])] == [
                *range(9)
            ]
            assert model(marked(42)).class_id[0] == 42
            assert [future.result(timeout=20).class_id[0] for future in futures] == [*range(10)]
        assert model.stats().waiting == 0


def test_a_list_is_streamed_through_kills_too() -> None:
    frames = [marked(index) for index in range(3000)]
    with pool_model("Faulty", {"delay_ms": 2}, batch=4, workers=2, max_restarts=MANY_RESTARTS) as model:
        with Killer(model, most=5) as killer:
            results = list(model.stream(frames))
        assert killer.kills >= 2
    _assert_all_answered(results, len(frames))


def test_a_replacement_killed_while_it_starts_is_replaced() -> None:
    with pool_model("Faulty", workers=1) as model:
        kill_one(model, 0)
        assert wait_until(lambda: _restarts(model) == 1 and pids(model))
        (starting,) = pids(model)
        os.kill(starting, signal.SIGKILL)
        assert model(marked(3)).class_id[0] == 3
        assert _restarts(model) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_worker_is_replaced(workers: int) -> None:
    with pool_model("Faulty", {"delay_ms": 1}, workers=workers, timeout_s=1) as model:
        assert model(marked(1)).class_id[0] == 1
        stopped = kill_one(model, 0, signal.SIGSTOP)
        _assert_all_answered(list(model.stream(map(marked, range(300)))), 300)
        assert _restarts(model) == 1
        assert not is_running(stopped)


def test_an_idle_worker_that_is_killed_is_replaced_and_the_next_call_works() -> None:
    with pool_model("Faulty", workers=2) as model:
        assert model(marked(1)).class_id[0] == 1
        before = pids(model)
        killed = kill_one(model, 1)
        assert wait_until(lambda: len(pids(model)) == 2 and killed not in pids(model))
        assert [found.class_id[0] for found in model([marked(index) for index in range(8)])] == [*range(8)]
        assert [worker.restarts for worker in model.stats().workers] == [0, 1]
        assert pids(model)[0] == before[0]
        assert children() == set(pids(model))


POISONS = [
    pytest.param("Crashes", {}, FrameError, r"brought down 2 workers.*ended by SIGSEGV", id="crash"),
    pytest.param(
        "Hangs", {"timeout_s": 1}, FrameError, r"brought down 2 workers.*answered nothing for 1 s", id="hang"
    ),
    pytest.param("Refuses", {}, BackendError, r"the frame is refused \(at frame 555\)", id="backend-error"),
    pytest.param("LosesDevice", {}, FrameError, r"frame 555 brought down 2 workers", id="device-error"),
]


@pytest.mark.parametrize(("factory", "pool_options", "error", "message"), POISONS)
@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (2, 4)])
def test_one_poisoned_frame_of_a_thousand_fails_alone(
    factory: str,
    pool_options: dict[str, float],
    error: type[TrtYoloError],
    message: str,
    batch: int,
    workers: int,
) -> None:
    frames = [poison() if index == 555 else marked(index) for index in range(1000)]
    with pool_model(factory, batch=batch, workers=workers, **pool_options) as model:
        results = list(model.stream(iter(frames)))
        assert (model.stats().frames, model.stats().errors) == (999, 1)
    assert [result.index for result in results] == list(range(1000))
    (failed,) = (result for result in results if result.error is not None)
    assert failed.index == 555
    assert type(failed.error) is error
    assert "frame 555" in str(failed.error)
    with pytest.raises(error, match=message):
        _ = failed.detections
    good = [result for result in results if result.error is None]
    assert [_class(result) for result in good] == [index % MARKS for index in range(1000) if index != 555]


def test_two_poisoned_frames_in_one_batch_both_fail_and_nobody_else() -> None:
    frames = [marked(0), poison(), poison(), marked(3)]
    with pool_model("Exits", batch=4, workers=1) as model:
        futures = [model.submit(frame) for frame in frames]
        assert futures[0].result(20).class_id[0] == 0
        assert futures[3].result(20).class_id[0] == 3
        for future, name in ((futures[1], "frame 1"), (futures[2], "frame 2")):
            with pytest.raises(FrameError, match=f"{name} brought down 2 workers.*left with exit code 7"):
                future.result(20)


@pytest.mark.parametrize(
    ("factory", "message"),
    [("Refuses", "the frame is refused"), ("Stumbles", "ZeroDivisionError: the frame is odd")],
)
def test_a_list_with_a_poisoned_frame_raises_its_error_and_the_model_goes_on(
    factory: str, message: str
) -> None:
    with pool_model(factory, batch=4, workers=2) as model:
        with pytest.raises(BackendError, match=rf"{message} \(at image 5\)"):
            model([poison() if index == 5 else marked(index) for index in range(9)])
        assert [found.class_id[0] for found in model([marked(index) for index in range(9)])] == [*range(9)]
        assert model.stats().waiting == 0


def test_a_frame_that_is_refused_harms_no_later_one_in_its_static_batch() -> None:
    with pool_model("Refuses", batch=4, static=True, workers=1, slots=2) as model:
        with pytest.raises(BackendError, match=r"the frame is refused \(at image 3\)"):
            model([marked(0), marked(1), marked(2), poison()])
        assert [int(model(marked(index)).class_id[0]) for index in range(4)] == [*range(4)]


def test_a_worker_that_lost_its_device_is_replaced_and_its_frames_run_again(tmp_path: Path) -> None:
    frames = [poison() if index == 50 else marked(index) for index in range(100)]
    with pool_model("LosesDevice", {"once": str(tmp_path / "lost")}, batch=4, workers=1) as model:
        before = pids(model)
        results = list(model.stream(frames))
        assert [result.error for result in results if result.error is not None] == []
        assert [result.index for result in results] == list(range(100))
        assert _restarts(model) == 1
        assert pids(model) != before


SCRIBBLES = [
    pytest.param({}, id="whole-page"),
    pytest.param({"value": 0}, id="whole-page-of-zeros"),
    pytest.param({"count": 4, "value": 0}, id="state-free"),
    pytest.param({"count": 1, "value": 4}, id="state-done-too-early"),
    pytest.param({"count": 1, "value": 5}, id="state-failed-too-early"),
    pytest.param({"at": 8, "count": 8}, id="sequence"),
    pytest.param({"at": 56, "count": 4}, id="checksum"),
]


@pytest.mark.parametrize("options", SCRIBBLES)
def test_a_header_that_a_backend_wrote_over_is_noticed_and_every_frame_answered(
    options: dict[str, int], tmp_path: Path
) -> None:
    frames = [poison() if index == 50 else marked(index) for index in range(100)]
    once = tmp_path / "scribbled"
    with pool_model("Scribbles", {"once": str(once), **options}, batch=4, workers=1) as model:
        results = list(model.stream(iter(frames)))
        assert once.exists()
        assert _restarts(model) == 1
    assert [result.index for result in results] == list(range(100))
    assert [result.error for result in results if result.error is not None] == []
    assert [_class(result) for result in results if result.index != 50] == [*range(50), *range(51, 100)]


@pytest.mark.parametrize("word", [0, 3, 4, 99])
def test_a_header_that_the_program_wrote_over_is_noticed_and_every_frame_answered(word: int) -> None:
    with pool_model("Faulty", {"delay_ms": 5}, workers=1, timeout_s=2) as model:
        futures = [model.submit(marked(index)) for index in range(20)]
        worker = model._pool._supervisor.replicas[0].worker
        assert worker is not None
        assert worker.ring is not None
        slots = worker.ring.slots
        assert wait_until(lambda: any(slot._state[0] == ring.State.READY for slot in slots))
        waiting = next(slot for slot in slots if slot._state[0] == ring.State.READY)
        waiting._state[0] = word
        assert [future.result(timeout=20).class_id[0] for future in futures] == [*range(20)]
        assert _restarts(model) == 1


def test_too_many_restarts_close_the_model_with_the_last_cause() -> None:
    """Frames that bring down their workers, one after another, until the model gives up."""
    with pool_model("Crashes", workers=1, max_restarts=2) as model:
        assert isinstance(model.submit(poison()).exception(timeout=30), FrameError)
        futures = [model.submit(poison()) for _ in range(3)]
        for future in futures:
            error = future.exception(timeout=30)
            assert type(error) is WorkerError
            assert "replaced more than 2 times within a minute" in str(error)
            assert "worker 0, was ended by SIGSEGV" in str(error)
        for late in (
            lambda: model(marked(1)),
            lambda: model.submit(marked(1)),
            lambda: model([marked(1)] * 3),
        ):
            with pytest.raises(WorkerError, match=r"more than 2 times.*SIGSEGV"):
                late()
        assert children() == set()


def _kill_when_busy(model: Model) -> None:
    wait_until(lambda: model.stats().frames > 0)
    kill_one(model)


@pytest.mark.parametrize("kind", ["call", "list", "stream", "stream-of-a-list", "submit"])
def test_whoever_waits_when_the_model_gives_up_gets_the_cause(kind: str) -> None:
    with pool_model("Faulty", {"delay_ms": 20}, workers=1, max_restarts=0) as model:

        def wait_for_it() -> object:
            if kind == "call":
                return [model(marked(1)) for _ in range(1000)]
            if kind == "list":
                return model([marked(1)] * 1000)
            if kind == "submit":
                return [future.result(20) for future in [model.submit(marked(1)) for _ in range(1000)]]
            frames = [marked(1)] * 1000
            return [one.detections for one in model.stream(frames if "list" in kind else iter(frames))]

        threading.Thread(target=_kill_when_busy, args=(model,)).start()
        with pytest.raises(WorkerError, match=r"more than 0 times.*ended by SIGKILL \(by somebody"):
            wait_for_it()


def test_a_model_that_can_no_longer_be_loaded_gives_up_in_words(tmp_path: Path) -> None:
    with pool_model("CrashesAtReload", {"once": str(tmp_path / "loaded")}, workers=1) as model:
        assert model(marked(9)).class_id[0] == 9
        kill_one(model, 0)
        with pytest.raises(WorkerError, match="no worker can start any more; worker 0 was ended by SIGSEGV"):
            _call_again_and_again(model)
    assert children() == set()


BAD_STARTS = [
    ("FailsToLoad", BackendError, "^the model is of clay; give one of bronze$"),
    ("StumblesAtLoad", WorkerError, "ZeroDivisionError: the model is odd"),
    ("CrashesAtLoad", WorkerError, "worker [01] was ended by SIGSEGV while it started"),
    ("NoSuchName", WorkerError, "NoSuchName"),
]


@pytest.mark.parametrize(("factory", "error", "message"), BAD_STARTS, ids=[one[0] for one in BAD_STARTS])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_start_says_why_and_leaves_nothing(
    factory: str, error: type[TrtYoloError], message: str, workers: int
) -> None:
    with pytest.raises(TrtYoloError, match=message) as caught:
        pool_model(factory, workers=workers)
    assert type(caught.value) is error
    assert children() == set()
    assert not [one for one in threading.enumerate() if one.name.startswith("trt-yolo")]


def test_a_worker_that_is_never_ready_is_given_up_in_time() -> None:
    with pytest.raises(
        WorkerError, match=r"worker 0 was not ready after 0\.5 s \(still .+\) while it started"
    ):
        pool_model("HangsAtLoad", workers=1, start_timeout_s=0.5)
    assert children() == set()


def _interrupt_with_children(count: int) -> None:
    wait_until(lambda: len(children()) == count)
    signal.raise_signal(signal.SIGINT)


def test_a_load_that_is_interrupted_leaves_nothing() -> None:
    threading.Thread(target=_interrupt_with_children, args=(2,)).start()
    with pytest.raises(KeyboardInterrupt):
        pool_model("HangsAtLoad", workers=2)
    assert wait_until(lambda: not children(), 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gone.onnx", InputError, r"no such file: .*gone\.onnx"),
        ("text.onnx", BackendError, r"cannot load .*text\.onnx"),
        ("cut.onnx", BackendError, r"cannot load .*cut\.onnx"),
    ],
)
def test_a_file_that_is_no_model_is_refused_the_same_way_by_workers(
    name: str, error: type[TrtYoloError], message: str, workers: int, tmp_path: Path, demo_onnx: Path
) -> None:
    (tmp_path / "text.onnx").write_text("text")
    data = demo_onnx.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(TrtYoloError, match=message) as caught:
        trt_yolo.load(tmp_path / name, workers=workers)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value).strip()
    assert children() == set()


def test_a_file_that_is_gone_when_a_worker_is_replaced_is_named(tmp_path: Path, demo_onnx: Path) -> None:
    moved = tmp_path / "moved.onnx"
    shutil.copy(demo_onnx, moved)
    with trt_yolo.load(moved, workers=1) as model:
        model(marked(0))
        moved.unlink()
        kill_one(model, 0)
        with pytest.raises(WorkerError, match=r"no worker can start any more.*moved\.onnx"):
            _call_again_and_again(model)


def test_close_ends_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STOP_S", 0.3)
    model = pool_model("Hangs", workers=1)
    future, before = model.submit(poison()), pids(model)
    assert wait_until(lambda: model.stats().workers[0].queue == 1)
    model._pool.abandon()
    with pytest.raises(ClosedError):
        future.result(timeout=10)
    model.close()
    assert not any(map(is_running, before))


def test_frames_of_a_dead_worker_keep_their_pixels() -> None:
    """What waits in a slot is saved from it, although the caller has got the array back."""
    with pool_model("Faulty", {"delay_ms": 30}, batch=4, workers=1, slots=4) as model:
        frame, futures = np.empty((64, 64, 3), np.uint8), []
        for index in range(14):
            frame[:] = index
            futures.append(model.submit(frame))
        kill_one(model, 0)
        frame[:] = 200
        assert [future.result(timeout=20).class_id[0] for future in futures] == [*range(14)]


def test_threads_with_different_thresholds_survive_kills() -> None:
    failures: list[object] = []
    with pool_model("Faulty", {"delay_ms": 1}, batch=4, workers=2, max_restarts=MANY_RESTARTS) as model:
        stopped = threading.Event()

        def call(number: int) -> None:
            for index in itertools.count():
                if stopped.is_set():
                    return
                mark = (number * 50 + index) % MARKS
                try:
                    found = model(marked(mark), conf=0.1 * (number + 1))
                except TrtYoloError as error:
                    failures.append(error)
                    return
                if found.class_id.tolist() != [mark]:
                    failures.append(found)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        with Killer(model, most=5, on_end=stopped.set):
            for thread in threads:
                thread.start()
            assert stopped.wait(30)
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
    assert failures == []
