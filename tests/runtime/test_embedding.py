"""Models in programs of all kinds: killed, interrupted, forked, careless, short of something; nothing is left."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.models import (
    Image,
    children,
    is_running,
    marked,
    pids,
    poison,
    pool_model,
    rings_left,
    wait_until,
)
from trt_yolo.detections import Detections
from trt_yolo.errors import BackendError, ClosedError, TrtYoloError, WorkerError
from trt_yolo.runtime import feeder, pool, ring, supervisor
from trt_yolo.runtime.model import Model

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]

PREAMBLE = """
import contextlib, itertools, os, resource, signal, sys, threading, time
from tests.runtime.models import marked, pids, pool_model
from trt_yolo.errors import ClosedError

def frames():
    return map(marked, itertools.count())
"""

LOADING = PREAMBLE + "print('start', flush=True)\nmodel = pool_model('Faulty', workers=2)\ntime.sleep(1000)\n"

HANGING = PREAMBLE + "print('start', flush=True)\nmodel = pool_model('HangsAtLoad', workers=2)\n"

STREAMING = (
    PREAMBLE
    + """
with pool_model('Faulty', {'delay_ms': 2}, workers=2) as model:
    print('start', flush=True)
    for result in model.stream(frames()):
        assert result.error is None
"""
)


_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="module", autouse=True)
def _adopts_orphans() -> Iterator[None]:
    """What a program leaves behind becomes a child of this process, and is seen."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    before = children()
    yield
    gc.collect()
    if not wait_until(lambda: children() <= before, 5):
        left = children() - before
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        pytest.fail(f"processes {left} are left")


def _start(script: str, **options: object) -> subprocess.Popen[str]:
    """A program of that text, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )


def _run(script: str, *, timeout_s: float = 10, **options: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that ends by itself."""
    with _start(script, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
    return process.returncode, output, errors


def _descendants(pid: int) -> set[int]:
    """The processes that a process has started and that still run."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.add(int(path.parent.name))
    return found


def _assert_killed_leaves_nothing(script: str, *, after_s: float) -> None:
    """Kills a program some time after it said that it starts; its workers leave within 5 s."""
    with _start(script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "start\n"
        time.sleep(after_s)
        workers = _descendants(process.pid)
        process.kill()
        process.wait(5)
        assert wait_until(lambda: not any(map(is_running, workers)), 5), f"{workers} are left"
    assert wait_until(lambda: rings_left() == set(), 5)


@pytest.mark.parametrize(("script", "most_s"), [(LOADING, 0.3), (STREAMING, 0.5)], ids=["loading", "busy"])
def test_a_program_that_is_killed_leaves_nothing(script: str, most_s: float) -> None:
    chance = random.Random(0)
    for _ in range(3):
        _assert_killed_leaves_nothing(script, after_s=chance.uniform(0, most_s))


def test_a_program_that_is_killed_while_a_worker_loads_for_long_leaves_nothing() -> None:
    _assert_killed_leaves_nothing(HANGING, after_s=0.5)


def test_a_program_that_is_killed_while_a_worker_hangs_leaves_nothing() -> None:
    script = PREAMBLE + (
        "from tests.runtime.models import poison\n"
        "model = pool_model('Hangs')\nfuture = model.submit(poison())\nprint('start', flush=True)\nfuture.result()\n"
    )
    _assert_killed_leaves_nothing(script, after_s=0.2)


def test_a_program_that_is_killed_and_had_forked_a_child_leaves_no_worker() -> None:
    """The child inherits the channel to the worker, which so stays open."""
    script = PREAMBLE + (
        "model = pool_model('Faulty')\nchild = os.fork()\nif child == 0:\n    time.sleep(6)\n    os._exit(0)\n"
        "print('start', *pids(model), child, flush=True)\ntime.sleep(1000)\n"
    )
    with _start(script) as process:
        assert process.stdout is not None
        _, worker, child = process.stdout.readline().split()
        process.kill()
        assert wait_until(lambda: not is_running(int(worker)), 5)
        assert is_running(int(child))
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.parametrize("script", [LOADING, HANGING, STREAMING], ids=["loading", "hanging", "busy"])
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["interrupt", "ctrl-c", "terminate"],
)
def test_a_program_that_is_interrupted_ends_and_its_workers_say_nothing(
    script: str, number: signal.Signals, whole_group: bool
) -> None:
    with _start(script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "start\n"
        assert wait_until(lambda: len(_descendants(process.pid)) == 2)
        workers = _descendants(process.pid)
        (os.killpg if whole_group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=8)
        assert process.returncode == -number
        assert errors.count("Traceback") == (number == signal.SIGINT)
        assert errors.rstrip().endswith("KeyboardInterrupt") == (number == signal.SIGINT)
        assert "trt_yolo.runtime.worker" not in errors
        assert wait_until(lambda: not any(map(is_running, workers)), 5), f"{workers} are left"


ENDS = {
    "never-closed": "model = pool_model('Faulty', workers=2)\nassert model(marked(3)).class_id[0] == 3",
    "never-closed-inline": "model = pool_model('Faulty', workers=0)\nassert model(marked(3)).class_id[0] == 3",
    "stream-dropped-half-way": "model = pool_model('Faulty')\nstream = model.stream(frames())\nnext(stream)",
    "stream-of-a-list-dropped": "model = pool_model('Faulty')\ns = model.stream([marked(1)] * 99)\nnext(s)",
    "futures-never-awaited": "model = pool_model('Faulty')\nfs = [model.submit(marked(1)) for _ in range(9)]",
    "worker-hangs": (
        "from tests.runtime.models import poison\nmodel = pool_model('Hangs')\nmodel.submit(poison())"
    ),
    "in-a-function": "def main():\n    model = pool_model('Faulty')\n    model(marked(1))\nmain()",
    "in-a-cycle": "model = pool_model('Faulty')\nmodel.itself = model\ndel model",
    "loaded-in-a-thread": (
        "found = []\ndef work():\n    found.append(pool_model('Faulty'))\n"
        "t = threading.Thread(target=work); t.start(); t.join()\nassert found[0](marked(3)).class_id[0] == 3"
    ),
    "daemon-thread-at-work": (
        "model = pool_model('Faulty', {'delay_ms': 1})\ndef work():\n    with contextlib.suppress(ClosedError):\n"
        "        for _ in model.stream(frames()): pass\n"
        "threading.Thread(target=work, daemon=True).start()\ntime.sleep(0.2)"
    ),
    "sys-exit": "model = pool_model('Faulty')\nsys.exit(0)",
    "stderr-closed": "os.close(2)\nmodel = pool_model('Faulty')\nassert model(marked(3)).class_id[0] == 3",
    "stdin-and-stdout-closed": "os.close(0)\nos.close(1)\nmodel = pool_model('Faulty')\nmodel(marked(3))",
    "no-lockable-memory": (
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\nmodel = pool_model('Faulty')\nmodel(marked(3))"
    ),
    "sigchld-ignored": (
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nmodel = pool_model('Faulty')\nmodel(marked(3))\n"
        "model.close()"
    ),
}


@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS.keys())
def test_a_program_that_never_closes_its_model_ends_with_0_and_in_silence(text: str) -> None:
    code, _, errors = _run(PREAMBLE + text)
    assert (code, errors) == (0, "")


def test_an_exception_that_ends_the_program_is_all_that_is_printed() -> None:
    code, _, errors = _run(PREAMBLE + "with pool_model('Faulty') as model:\n    1 / 0")
    assert code == 1
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("ZeroDivisionError: division by zero")


UNGUARDED = PREAMBLE + "model = pool_model('Faulty', workers=2)\nprint(model(marked(7)).class_id[0])\n"


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, path], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\n", "")


def test_a_script_may_come_from_standard_input() -> None:
    ended = subprocess.run(
        [sys.executable, "-"],
        cwd=ROOT,
        input=UNGUARDED,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "7\n", "")


def test_a_model_that_nobody_holds_any_more_ends_its_workers() -> None:
    model = pool_model("Faulty", workers=2)
    assert model(marked(3)).class_id[0] == 3
    before = pids(model)
    del model
    gc.collect()
    assert wait_until(lambda: not any(map(is_running, before)), 5)


def test_a_stream_keeps_its_model_although_nobody_else_holds_it() -> None:
    stream = pool_model("Faulty").stream(map(marked, range(100)))
    gc.collect()
    assert [result.detections.class_id[0] for result in stream] == [*range(100)]


def test_two_models_at_once_answer_for_themselves() -> None:
    with pool_model("Faulty") as one, pool_model("Refuses") as other:
        for index, (first, second) in enumerate(
            zip(one.stream(map(marked, range(50))), other.stream(map(marked, range(100, 150))), strict=True)
        ):
            assert first.detections.class_id[0] == index
            assert second.detections.class_id[0] == index + 100
        one.close()
        assert other(marked(9)).class_id[0] == 9


def test_the_consumer_of_a_stream_may_fail_and_the_model_is_used_again() -> None:
    def consume(model: Model) -> None:
        for result in model.stream(map(marked, range(10_000))):
            if result.index == 10:
                raise ZeroDivisionError

    with pool_model("Faulty") as model:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                consume(model)
        assert model(marked(3)).class_id[0] == 3
        assert wait_until(lambda: model.stats().waiting == 0)


@pytest.mark.parametrize("as_list", [False, True], ids=["iterator", "list"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_may_be_dropped_half_way_and_the_model_is_used_again(as_list: bool, workers: int) -> None:
    frames = [marked(index) for index in range(500)]
    with pool_model("Faulty", workers=workers) as model:
        for _ in range(5):
            stream = model.stream(frames if as_list else iter(frames))
            assert [next(stream).detections.class_id[0] for _ in range(10)] == [*range(10)]
            del stream
            assert [found.class_id[0] for found in model(frames[:9])] == [*range(9)]
        assert wait_until(lambda: model.stats().waiting == 0)
        gc.collect()
        assert wait_until(lambda: not [t for t in threading.enumerate() if t.name == "trt-yolo-reader"])


def _use_once(workers: int) -> None:
    with pool_model("Faulty", workers=workers) as model:
        assert model(marked(1)).class_id[0] == 1
        assert len(list(model.stream([marked(1)] * 3))) == 3
        assert model.submit(marked(2)).result(10).class_id[0] == 2


@pytest.mark.parametrize(("workers", "times"), [(0, 100), (1, 5)])
def test_opened_and_closed_again_and_again_nothing_grows(workers: int, times: int) -> None:
    _use_once(workers)
    gc.collect()
    before = (len(os.listdir("/proc/self/fd")), threading.active_count(), children())
    mappings = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(times):
        _use_once(workers)
    gc.collect()

    def now() -> tuple[int, int, set[int]]:
        return (len(os.listdir("/proc/self/fd")), threading.active_count(), children())

    assert wait_until(lambda: now() == before, 5), f"{before} became {now()}"
    assert len(Path("/proc/self/maps").read_text().splitlines()) < mappings + 20


def _in_child(work: Callable[[], object]) -> str:
    """What `work` returned or raised in a forked child, in words."""
    read_fd, write_fd = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        text = "nothing"
        try:
            text = str(work())
        except BaseException as error:  # noqa: BLE001
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(write_fd, text.encode())
            os._exit(0)
    os.close(write_fd)
    assert wait_until(lambda: not is_running(child), 15), os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(read_fd) as file:
        return file.read()


FORKED_USES: dict[str, Callable[[Model], object]] = {
    "call": lambda model: model(marked(1)),
    "list": lambda model: model([marked(1), marked(2)]),
    "submit": lambda model: model.submit(marked(1)).result(5),
    "stream": lambda model: [one.detections for one in model.stream(iter([marked(1)]))],
    "stream-of-a-list": lambda model: [one.detections for one in model.stream([marked(1)])],
}


@pytest.mark.parametrize("use", FORKED_USES.values(), ids=FORKED_USES.keys())
@pytest.mark.parametrize("workers", [0, 1])
def test_a_forked_child_is_told_to_load_its_own_and_the_parent_goes_on(
    workers: int, use: Callable[[Model], object]
) -> None:
    with pool_model("Faulty", workers=workers) as model:
        assert model(marked(3)).class_id[0] == 3
        said = _in_child(lambda: use(model))
        assert said.startswith(f"WorkerError: this model was loaded in process {os.getpid()} and process ")
        assert "load it after the fork" in said
        assert model(marked(4)).class_id[0] == 4
        assert model.stats().workers[0].restarts == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_child_forked_under_load_may_close_and_exit_without_hurting_the_parent(workers: int) -> None:
    with pool_model("Faulty", {"delay_ms": 1}, workers=workers) as model:
        stream = model.stream(map(marked, range(200)))
        seen = [int(next(stream).detections.class_id[0]) for _ in range(20)]
        for _ in range(3):
            assert _in_child(model.close) == "None"
            seen += [int(next(stream).detections.class_id[0]) for _ in range(20)]
        seen += [int(result.detections.class_id[0]) for result in stream]
        assert seen == [*range(200)]
        assert model.stats().workers[0].restarts == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_model_may_be_loaded_in_a_forked_child(workers: int) -> None:
    def load_and_use() -> object:
        with pool_model("Faulty", workers=workers) as mine:
            return mine(marked(8)).class_id[0]

    with pool_model("Faulty", workers=workers) as model:
        model(marked(3))
        assert _in_child(load_and_use) == "8"
        assert model(marked(4)).class_id[0] == 4


def _forked_by_multiprocessing(model: Model) -> None:
    with pytest.raises(WorkerError, match="was forked"):
        model(marked(1))
    sys.exit(3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_child_of_multiprocessing_that_is_forked_is_told_too_and_ends(workers: int) -> None:
    with pool_model("Faulty", workers=workers) as model:
        model(marked(3))
        child = multiprocessing.get_context("fork").Process(target=_forked_by_multiprocessing, args=(model,))
        child.start()
        child.join(15)
        assert child.exitcode == 3
        assert model(marked(4)).class_id[0] == 4


SCARCE = """
from trt_yolo.errors import WorkerError
from tests.runtime.models import children
{setup}
pool_model('Faulty', workers={workers}).close()
said, used = [], len(os.listdir('/proc/self/fd'))
for room in range(0, 30, 2):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, 4096))
    try:
        with pool_model('Faulty', workers={workers}) as model:
            assert model(marked(3)).class_id[0] == 3
            said.append('works')
    except WorkerError as error:
        assert 'Too many open files' in str(error) and chr(10) not in str(error), error
        said.append('refused')
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    assert not children(), room
    assert len(os.listdir('/proc/self/fd')) == used, room
assert said == sorted(said), said
print(*sorted(set(said)))
"""


@pytest.mark.parametrize("workers", [0, 3])
def test_too_few_file_descriptors_are_named_and_leave_nothing(workers: int) -> None:
    """Each limit from too small for anything to enough: an error of ours in one line, or a model that works."""
    code, output, errors = _run(PREAMBLE + SCARCE.format(workers=workers, setup=""), timeout_s=25)
    assert (code, output, errors) == (0, "refused works\n", "")


@pytest.mark.parametrize("workers", [0, 2])
def test_no_shared_memory_is_an_error_in_words_and_leaves_nothing(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ring, "_reserve", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(WorkerError, match=r"no shared memory for 4 slots.*No space left.*fewer workers"):
        pool_model("Faulty", workers=workers)
    assert children() == set()
    gc.collect()
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_callback_may_submit_again_and_again(workers: int) -> None:
    ended: list[int] = []
    over = threading.Event()
    with pool_model("Faulty", workers=workers) as model:

        def again(future: Future[Detections]) -> None:
            ended.append(int(future.result().class_id[0]))
            if len(ended) == 200:
                over.set()
            else:
                model.submit(marked(len(ended))).add_done_callback(again)

        model.submit(marked(0)).add_done_callback(again)
        assert over.wait(20)
    assert ended == [*range(200)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("use", [lambda model: model(marked(1)), lambda model: model.stream([marked(1)])])
def test_a_callback_that_would_wait_for_itself_is_told_so(
    workers: int, use: Callable[[Model], object]
) -> None:
    raised: list[BaseException] = []
    called = threading.Event()
    with pool_model("Faulty", {"delay_ms": 50}, workers=workers) as model:

        def wait_here(_: Future[Detections]) -> None:
            try:
                use(model)
            except BaseException as error:  # noqa: BLE001
                raised.append(error)
            called.set()

        model.submit(marked(0)).add_done_callback(wait_here)
        assert called.wait(10)
        assert model(marked(2)).class_id[0] == 2
    (error,) = raised
    assert type(error) is WorkerError
    assert "called from a future's callback" in str(error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_callback_may_close_the_model(workers: int) -> None:
    model = pool_model("Faulty", {"delay_ms": 20}, workers=workers)
    model.submit(marked(0)).add_done_callback(lambda _: model.close())
    assert wait_until(lambda: model._pool._closing is not None)
    model.close()
    assert children() == set()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("as_list", [False, True], ids=["iterator", "list"])
def test_close_during_a_stream_ends_it(workers: int, as_list: bool) -> None:
    def endless() -> Iterator[Image]:
        while True:
            yield marked(1)

    model = pool_model("Faulty", {"delay_ms": 1}, workers=workers)
    stream = model.stream([marked(1)] * 100_000 if as_list else endless())
    next(stream)
    threading.Thread(target=model.close).start()
    with pytest.raises(ClosedError, match="the model is closed; load it again"):
        _exhaust(stream)
    model.close()
    assert children() == set()


def _exhaust(stream: Iterator[object]) -> None:
    for result in stream:
        assert result.detections is not None  # type: ignore[attr-defined]


USES: dict[str, Callable[[Model], object]] = {
    "call": lambda model: model(marked(1)),
    "empty-list": lambda model: model([marked(1)]),
    "list": lambda model: model([marked(1), marked(2)]),
    "submit": lambda model: model.submit(marked(1)),
    "submit-a-file": lambda model: model.submit("x.jpg"),
    "stream": lambda model: [one.detections for one in model.stream(iter([marked(1)]))],
    "stream-of-a-list": lambda model: [one.detections for one in model.stream([marked(1)])],
    "stream-of-files": lambda model: [one.detections for one in model.stream(["x.jpg"])],
}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_closed_model_says_so_to_every_use_and_may_be_closed_again(workers: int) -> None:
    model = pool_model("Faulty", workers=workers)
    model.close()
    model.close()
    for name, use in USES.items():
        with pytest.raises(ClosedError, match="the model is closed; load it again"):
            raise AssertionError(f"{name} gave {use(model)}")
    assert model.names[3] == "3"
    assert model.stats().waiting == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_close_waits_for_what_was_submitted(workers: int) -> None:
    model = pool_model("Faulty", {"delay_ms": 10}, workers=workers, slots=8)
    futures = [model.submit(marked(index)) for index in range(20)]
    model.close()
    assert all(future.done() for future in futures)
    assert [future.result(0).class_id[0] for future in futures] == [*range(20)]


def test_leaving_the_context_with_an_error_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STOP_S", 0.3)
    futures: list[Future[Detections]] = []

    def fail() -> None:
        with pool_model("Hangs", slots=8) as model:
            futures.extend(model.submit(poison()) for _ in range(6))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {type(future.exception(0)) for future in futures} == {ClosedError}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["call", "list", "stream", "stream-of-a-list"])
def test_an_interrupted_call_leaves_the_model_usable(workers: int, kind: str) -> None:
    with pool_model("Faulty", {"delay_ms": 20}, workers=workers, batch=4) as model:
        for _ in range(2):
            threading.Timer(0.15, signal.raise_signal, (signal.SIGINT,)).start()
            with pytest.raises(KeyboardInterrupt):
                _work_for_long(model, kind)
            assert [found.class_id[0] for found in model([marked(index) for index in range(9)])] == [
                *range(9)
            ]
        assert wait_until(lambda: model.stats().waiting == 0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("use", ["call", "list", "submit", "stream-of-a-list"])
def test_an_interrupt_while_a_frame_is_written_leaves_the_model_usable(
    workers: int, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    letterbox_into = feeder.letterbox_into
    with pool_model("Faulty", workers=workers, batch=4, slots=2) as model:

        def interrupt(source_bgr: Image, *others: Any) -> None:
            if source_bgr[0, 0, 0] == 2:
                raise KeyboardInterrupt
            letterbox_into(source_bgr, *others)

        for _ in range(5):  # more often than there are slots
            monkeypatch.setattr(feeder, "letterbox_into", interrupt)
            with pytest.raises(KeyboardInterrupt):
                _use_all(model, use)
            monkeypatch.setattr(feeder, "letterbox_into", letterbox_into)
            assert [found.class_id[0] for found in model([marked(index) for index in range(9)])] == [
                *range(9)
            ]
        assert wait_until(lambda: model.stats().waiting == 0)
        assert model.stats().workers[0].restarts == 0


def _use_all(model: Model, use: str) -> None:
    frames = [marked(index) for index in range(6)]
    if use == "list":
        model(frames)
    elif use == "stream-of-a-list":
        list(model.stream(frames))
    else:
        for frame in frames:
            model(frame) if use == "call" else model.submit(frame)


def _work_for_long(model: Model, kind: str) -> None:
    frames = [marked(index) for index in range(2000)]
    if kind == "call":
        for frame in frames:
            model(frame)
    elif kind == "list":
        model(frames)
    else:
        for _ in model.stream(frames if "list" in kind else iter(frames)):
            pass


def test_threads_that_wait_when_the_model_is_closed_all_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STOP_S", 0.3)
    model = pool_model("Hangs", {}, workers=1, slots=2)
    heard: list[BaseException | None] = []

    def wait_for_it() -> None:
        try:
            model(poison())
        except TrtYoloError as error:
            heard.append(error)

    threads = [threading.Thread(target=wait_for_it, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: model.stats().waiting == 6)
    model.__exit__(BackendError, BackendError("anything"), None)
    for thread in threads:
        thread.join(10)
    assert [type(error) for error in heard] == [ClosedError] * 6
    assert children() == set()


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_interrupt_while_answers_are_taken_loses_no_other_threads_frame(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that waits takes everybody's answers: Ctrl-C there comes before or after a slot is released."""
    interrupted: list[bool] = []

    def interrupting(call: Callable[..., Any]) -> Callable[..., Any]:
        def once(*args: Any) -> Any:
            if not interrupted and threading.current_thread() is threading.main_thread():
                interrupted.append(True)
                raise KeyboardInterrupt
            return call(*args)

        return once

    with pool_model("Faulty", {"delay_ms": 20}, workers=1) as model:
        if where == "before":
            monkeypatch.setattr(pool, "detections_of_batch", interrupting(pool.detections_of_batch))
        else:
            ledger = model._pool.ledger
            monkeypatch.setattr(ledger, "note_batch", interrupting(ledger.note_batch))
        futures = [model.submit(marked(index)) for index in range(3)]
        with pytest.raises(KeyboardInterrupt):
            model(marked(9))
        assert interrupted
        assert [future.result(10).class_id[0] for future in futures] == [0, 1, 2]
        assert model(marked(4)).class_id[0] == 4
