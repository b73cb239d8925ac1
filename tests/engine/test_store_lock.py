"""One process at a time builds an engine; who was killed leaves no lock, no parts and no half of an engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.plans import children_of, left_in, python
from tests.runtime.models import wait_until
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.engine.plan import plan_file
from trt_yolo.engine.store import locked, manifest_of, part_path, write_durably
from trt_yolo.errors import ExportError, InputError


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "model.engine"


def test_an_engine_is_alone_with_its_lock_among_threads(engine: Path) -> None:
    inside, most, count = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, count
        for _ in range(5):
            with locked(engine, timeout_s=30):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.002)
                with guard:
                    inside -= 1
                    count += 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, count) == (1, 30)


LOCKING = """
import sys, time
from pathlib import Path
from trt_yolo.engine.store import locked

with locked(Path(sys.argv[1]), timeout_s=20):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locking(engine: Path) -> Iterator[subprocess.Popen[str]]:
    process = python(LOCKING, engine, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait(10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def test_an_engine_is_alone_with_its_lock_among_processes(
    engine: Path, locking: subprocess.Popen[str]
) -> None:
    with (
        pytest.raises(ExportError, match=r"another process has been building .*model\.engine"),
        locked(engine, timeout_s=0.2),
    ):
        pytest.fail("two have the lock")
    with locked(engine.with_name("other.engine"), timeout_s=0.2):
        pass
    assert locking.stdin is not None
    locking.stdin.close()
    with locked(engine, timeout_s=10):
        pass


def test_a_lock_ends_with_its_process(engine: Path, locking: subprocess.Popen[str]) -> None:
    locking.kill()
    with locked(engine, timeout_s=10):
        pass


def test_an_error_lifts_the_lock(engine: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(engine):
        _ = 1 / 0
    with locked(engine, timeout_s=0):
        pass


@pytest.mark.parametrize("name", ["model.engine", "demo[1].engine", "a*b?.engine", "with blank.engine"])
def test_parts_of_those_who_were_killed_are_cleared_and_nothing_else(name: str, tmp_path: Path) -> None:
    engine = tmp_path / name
    parts = {f".{name}.4711.engine.part", f".{name}.4711.log.part", f".{name}.4711.engine.part.json"}
    others = {name, f"{name}.json", f"{name}.failed.log", "axxb1.engine", ".axxb1.engine.4711.engine.part",
              f".{name}.b.engine.4711.engine.part"}  # fmt: skip
    for one in parts | others:
        (tmp_path / one).touch()
    with locked(engine):
        assert left_in(tmp_path) == others | {f".{name}.lock"}
    assert left_in(tmp_path) == others


def test_a_part_is_hidden_and_in_the_same_folder(engine: Path) -> None:
    part = part_path(engine, of=engine)
    assert part.parent == engine.parent
    assert part.name.startswith(".")
    assert str(os.getpid()) in part.name
    assert part != part_path(engine.with_name("model.engine.log"), of=engine)


def test_a_folder_is_made_and_does_not_stay_empty(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "model.engine"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()


def test_who_waits_for_an_engine_makes_its_folder_again(tmp_path: Path) -> None:
    """The first builder failed, and took away the folder that it had made."""
    engine = tmp_path / "a" / "model.engine"
    got: list[bool] = []

    def wait() -> None:
        with locked(engine):
            got.append(engine.parent.is_dir())

    second = threading.Thread(target=wait)
    with locked(engine):
        second.start()
        time.sleep(0.2)
    second.join(10)
    assert got == [True]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"cannot write to .*file: .*--out"),
        locked(tmp_path / "file" / "model.engine"),
    ):
        pytest.fail("it has the lock")


def test_writing_durably_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"long" * 1000, b"short", b""):
        write_durably(path, content)
        assert path.read_bytes() == content


# a fork for each line: what it imports it imports once
BUILDING = """
import os, sys
from pathlib import Path
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.engine.options import EngineOptions

onnx, engine = map(Path, sys.argv[1:])
for line in sys.stdin:
    if pid := os.fork():
        os.waitpid(pid, 0)
        print("ended", flush=True)
        continue
    print(os.getpid(), flush=True)
    engine_from_onnx(onnx, engine=engine, options=EngineOptions(compute_capability=(line.strip(),)))
    os._exit(0)
"""
LONGEST_S = 1.0
LEFT = {"model.onnx", "model.engine", "model.engine.json", "model.engine.log"}


@pytest.mark.parametrize("rounds", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_builders_killed_at_any_moment_leave_a_whole_engine(rounds: int, graph: Path) -> None:
    """Each builds for another GPU, so that what is there afterwards tells whose it is."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    engine = graph.with_name("model.engine")
    engine_from_onnx(graph, engine=engine)
    builder, seen = python(BUILDING, graph, engine, stdin=subprocess.PIPE), [_built_for(engine)]
    assert builder.stdin is not None
    assert builder.stdout is not None
    try:
        for index in range(rounds):
            wanted = ("8.6", "8.9", "12.0")[index % 3]
            builder.stdin.write(wanted + "\n")
            builder.stdin.flush()
            pid = int(builder.stdout.readline())
            assert wait_until(lambda pid=pid: children_of(pid), 30)  # its own builder has begun
            time.sleep(LONGEST_S * (index * 7 % rounds) / rounds)
            with contextlib.suppress(ProcessLookupError):  # it has come to its end
                os.kill(pid, signal.SIGKILL)
            assert builder.stdout.readline() == "ended\n"
            seen.append(_built_for(engine))
            assert seen[-1] in (seen[-2], wanted)
            with locked(engine, timeout_s=0.5):  # no lock is left
                pass
    finally:
        builder.kill()
        builder.communicate()
    engine_from_onnx(graph, engine=engine)
    assert _built_for(engine) == "8.0+"
    assert wait_until(lambda: left_in(graph.parent) == LEFT, 30), left_in(graph.parent)


def _built_for(engine: Path) -> str:
    """The GPUs of the manifest that fits the plan."""
    manifest = manifest_of(plan_file(engine))
    assert manifest is not None
    assert manifest.engine is not None
    assert manifest.engine.plan_bytes == engine.stat().st_size
    (capability,) = manifest.engine.compute_capabilities
    return capability
