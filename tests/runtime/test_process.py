"""Worker processes of programs that are unlike others: odd import paths, no Python of their own, deaf to SIGCHLD."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.models import (
    children,
    kill_one,
    marked,
    pids,
    poison,
    pool_model,
    tiny_manifest,
    wait_until,
)
from trt_yolo.errors import FrameError, WorkerError
from trt_yolo.runtime import supervisor
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.process import RingOptions, WorkerProcess
from trt_yolo.runtime.ring import State
from trt_yolo.runtime.worker import BackendSpec, WorkerSpec

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the supervisor warns of."""
    said: list[str] = []
    monkeypatch.setattr(supervisor._log, "warning", lambda text, *values: said.append(text % values))
    return said


@pytest.fixture(params=["ignored", "reaped"])
def _deaf(request: pytest.FixtureRequest) -> Iterator[None]:
    """A program in which no process's exit code is left for whoever started it."""
    left = threading.Event()

    def reap() -> None:
        while not left.wait(0.0005):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)

    reaper = threading.Thread(target=reap)
    before = signal.getsignal(signal.SIGCHLD)
    if request.param == "ignored":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    else:
        reaper.start()
    yield
    signal.signal(signal.SIGCHLD, before)
    left.set()
    if reaper.ident is not None:
        reaper.join()


def _is_running(model: Model) -> bool:
    """Whether its worker runs the only batch that there is."""
    (batch,) = model._pool._supervisor.replicas[0].queue.in_flight.values()
    return batch.slot.state == State.RUNNING


@pytest.mark.usefixtures("_deaf")
def test_where_exit_codes_are_lost_a_kill_is_not_the_frames_fault_and_a_crash_is(warnings: list[str]) -> None:
    with pool_model("Crashes", {"delay_ms": 200}) as model:
        future = model.submit(marked(5))
        for kills in (1, 2):  # as many as make a crash the frame's own fault
            assert wait_until(lambda: model.stats().workers[0].queue == 1 and model.ready_pids)
            assert wait_until(lambda: _is_running(model))
            kill_one(model)
            assert wait_until(lambda kills=kills: model.stats().workers[0].restarts == kills)
        assert future.result(10).class_id[0] == 5
        with pytest.raises(FrameError, match=r"brought down [23] workers"):
            model(poison())
        assert model(marked(3)).class_id[0] == 3
    known = ("with unknown status (this program ignores SIGCHLD, or waits for", "by SIGKILL", "by SIGSEGV")
    assert [one for one in warnings if not any(cause in one for cause in known)] == []
    assert children() == set()


def test_an_import_path_that_fits_no_command_line_reaches_workers_and_their_successors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = [Path("src"), b"/bytes", None, "/\udcff", *(f"/{index:05}/{'x' * 200}" for index in range(1200))]
    monkeypatch.setattr(sys, "path", [*sys.path, *odd])
    with pool_model("Faulty", workers=2) as model:
        for pid in pids(model):
            assert len(Path(f"/proc/{pid}/cmdline").read_bytes()) < 300
            assert len(Path(f"/proc/{pid}/environ").read_bytes()) < 300 + sum(
                len(name) + len(value) + 2 for name, value in os.environb.items()
            )
        kill_one(model)
        assert wait_until(lambda: model.stats().workers[0].restarts == 1 and len(model.ready_pids) == 2)
        assert [found.class_id[0] for found in model([marked(index) for index in range(6)])] == [*range(6)]


def _script(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


FOREIGN = [
    ("exit 0", r"^{} left with exit code 0 before it had imported trt_yolo; .*set_executable.*workers=0$"),
    ("exit 3", r"^{} left with exit code 3 before it had imported"),
    ("kill -SEGV $$", r"^{} was ended by SIGSEGV before it had imported"),
    ("exec sleep 100", r"worker 0 was not ready after 1 s \(still starting {}\)"),
]


@pytest.mark.parametrize(("text", "message"), FOREIGN, ids=[text for text, _ in FOREIGN])
def test_a_program_that_is_no_python_is_named_with_what_to_set(
    text: str, message: str, tmp_path: Path
) -> None:
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(program := _script(tmp_path, text))
    try:
        with pytest.raises(WorkerError, match=message.format(program)) as caught:
            pool_model("Faulty", start_timeout_s=1 if "sleep" in text else 60)
    finally:
        multiprocessing.set_executable(before)
    assert "\n" not in str(caught.value)
    assert children() == set()


def test_a_worker_says_what_it_does_until_it_is_ready() -> None:
    backend = BackendSpec(
        factory="tests.runtime.faulty:Faulty", options={"manifest": tiny_manifest().to_json()}
    )
    worker = WorkerProcess(WorkerSpec(backend=backend, threads=1), ring=RingOptions(slots=2))
    did = [worker.doing]
    while not worker.is_ready:
        worker.receive()
        did.append(worker.doing)
    assert did == [f"starting {sys.executable}", "loading the model", "warming up", "warming up"]
    worker.stop()
    assert worker.join(10)
    worker.close()


NOISY = """
import os, sys
from tests.runtime.models import kill_one, marked, pool_model
for number in range(3):
    os.close(number)
try:
    for workers in (0, 1):
        with pool_model("Faulty", workers=workers) as model:
            for index in range(20):
                for number in (1, 2):
                    os.write(number, b"what a library prints " * 50)
                assert model(marked(index)).class_id[0] == index
            if workers:
                kill_one(model)
                assert model(marked(3)).class_id[0] == 3
                (worker,) = model.ready_pids
                assert {os.readlink(f"/proc/{worker}/fd/{number}") for number in range(3)} == {"/dev/null"}
except BaseException as error:
    open(sys.argv[1], "w").write(repr(error))
    os._exit(1)
"""


def test_what_is_printed_to_closed_streams_reaches_no_file_of_ours(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", NOISY, tmp_path / "error"],
        cwd=ROOT,
        timeout=20,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert ended.returncode == 0, (tmp_path / "error").read_text()
