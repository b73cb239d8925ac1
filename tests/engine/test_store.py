"""An engine and its manifest change together, wherever a writer stops; and nobody trusts what a manifest says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import (
    children_of,
    facts_of,
    here,
    left_in,
    manifest_for,
    python,
    tensorrt_plan,
    write_pair,
)
from tests.runtime.models import wait_until
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.build.engine_from_onnx import EngineReport, engine_from_onnx
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.engine.plan import manifest_path, plan_file
from trt_yolo.engine.store import locked, manifest_beside, manifest_of, part_path, publish, write_durably
from trt_yolo.errors import EngineError, ExportError, InputError, UnsupportedModelError

OLD, NEW, NEWER = (tensorrt_plan(name * 20) for name in (b"old", b"new", b"newer"))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "model.engine"


def _new_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json.new")


def _pair(engine: Path) -> tuple[bytes, Manifest | None]:
    """What a reader gets."""
    plan = plan_file(engine)
    return plan.read(), manifest_of(plan)


def _publish(engine: Path, plan: bytes) -> Manifest:
    part, manifest = part_path(engine, of=engine), manifest_for(plan)
    part.write_bytes(plan)
    with locked(engine.with_name("another.engine")):  # a lock of somebody else does not stand in the way
        publish(part, engine, manifest)
    return manifest


def test_a_first_engine_and_its_manifest(engine: Path) -> None:
    manifest = _publish(engine, NEW)
    assert _pair(engine) == (NEW, manifest)
    assert manifest_beside(engine) == manifest
    assert left_in(engine.parent) == {"model.engine", "model.engine.json"}


def test_a_new_engine_takes_the_place_of_the_old(engine: Path) -> None:
    write_pair(engine, OLD)
    manifest = _publish(engine, NEW)
    assert _pair(engine) == (NEW, manifest)
    assert left_in(engine.parent) == {"model.engine", "model.engine.json"}


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("has_old", [True, False])
def test_a_disk_that_fails_at_a_step(
    step: int, has_old: bool, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first `step` renames succeed, the next is refused."""
    if has_old:
        write_pair(engine, OLD)
    with monkeypatch.context() as patch:
        _let_renames_fail(patch, after=step)
        if step < 2:
            with pytest.raises(InputError, match=r"cannot write to .*No space left.*--out") as caught:
                _publish(engine, NEW)
            assert "\n" not in str(caught.value)
        else:
            _publish(engine, NEW)
    if step == 0 and not has_old:
        assert not engine.exists()
    else:
        plan = OLD if step == 0 else NEW
        assert _pair(engine) == (plan, manifest_for(plan))
    assert _publish(engine, NEWER) == _pair(engine)[1]
    assert not _new_path(engine).exists()


def _let_renames_fail(patch: pytest.MonkeyPatch, *, after: int) -> None:
    rename, count = Path.replace, iter(range(1000))

    def limited(self: Path, target: Path) -> Path:
        if next(count) >= after:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    patch.setattr(Path, "replace", limited)


# a fork for each line, killed at one of the calls that change the disk, or at none where there are fewer
KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.engine.plans import manifest_for, tensorrt_plan
from trt_yolo.engine import store

def publish(engine, name, left):
    def counted(work):
        def call(*arguments):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return work(*arguments)
        return call

    plan = tensorrt_plan(name.encode() * 20)
    with store.locked(engine):
        part = store.part_path(engine, of=engine)
        part.write_bytes(plan)
        os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)
        store.publish(part, engine, manifest_for(plan))
    os._exit(0)

for line in sys.stdin:
    engine, name, left = json.loads(line)
    if pid := os.fork():
        print(os.waitpid(pid, 0)[1], flush=True)
    else:
        publish(Path(engine), name, left)
"""


@pytest.fixture(scope="module")
def publishers() -> Iterator[subprocess.Popen[str]]:
    process = python(KILLED, stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def _publish_until_killed(process: subprocess.Popen[str], engine: Path, name: str, *, calls: int) -> bool:
    """Whether a process came to its end that is killed before it changes the disk once more than `calls`."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps((str(engine), name, calls)) + "\n")
    process.stdin.flush()
    status = int(process.stdout.readline())
    assert status in (0, signal.SIGKILL)
    return status == 0


def test_a_process_killed_at_any_moment_leaves_the_old_pair_or_the_new(
    publishers: subprocess.Popen[str], tmp_path: Path
) -> None:
    seen = []
    for calls in range(20):
        engine = tmp_path / str(calls) / "model.engine"
        engine.parent.mkdir()
        write_pair(engine, OLD)
        ended = _publish_until_killed(publishers, engine, "new", calls=calls)
        plan, manifest = _pair(engine)
        assert manifest == manifest_for(plan)
        seen.append(plan)
        if ended:
            break
    assert seen == sorted(seen, key=[OLD, NEW].index)
    assert len(seen) > 4
    assert set(seen) == {OLD, NEW}


def test_two_processes_killed_one_after_the_other_leave_a_pair(
    publishers: subprocess.Popen[str], tmp_path: Path
) -> None:
    """What the first left is not to be lost by the second."""
    for first in range(6):
        for second in range(6):
            engine = tmp_path / f"{first}-{second}" / "model.engine"
            engine.parent.mkdir()
            write_pair(engine, OLD)
            _publish_until_killed(publishers, engine, "new", calls=first)
            before = engine.read_bytes()
            _publish_until_killed(publishers, engine, "newer", calls=second)
            plan, manifest = _pair(engine)
            assert plan in (before, NEWER)
            assert manifest == manifest_for(plan)


def test_states_that_a_stop_leaves(engine: Path) -> None:
    """Of each of the steps, laid by hand: before the second the old pair is read, after it the new one."""
    old, new = write_pair(engine, OLD), manifest_for(NEW)
    _new_path(engine).write_text(new.to_json())
    assert _pair(engine) == (OLD, old)
    engine.write_bytes(NEW)
    assert _pair(engine) == (NEW, new)
    _new_path(engine).replace(manifest_path(engine))
    assert _pair(engine) == (NEW, new)


def test_a_first_engine_whose_manifest_has_not_come_to_its_place(engine: Path) -> None:
    manifest = manifest_for(NEW)
    engine.write_bytes(NEW)
    _new_path(engine).write_text(manifest.to_json())
    assert _pair(engine) == (NEW, manifest)
    assert manifest_beside(engine) == manifest


def test_half_of_a_new_manifest_does_not_harm_the_old_pair(engine: Path) -> None:
    old = write_pair(engine, OLD)
    text = manifest_for(NEW).to_json()
    for length in (0, 1, len(text) // 2, len(text) - 1):
        _new_path(engine).write_text(text[:length])
        assert _pair(engine) == (OLD, old)


def test_readers_always_get_a_pair_while_somebody_writes(engine: Path) -> None:
    write_pair(engine, OLD)
    stopped, problems, reads = threading.Event(), [], []

    def read() -> None:
        while not stopped.is_set():
            try:
                manifest = manifest_of(plan_file(engine))
            except Exception as error:  # noqa: BLE001
                problems.append(error)
                return
            reads.append(manifest)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + 2
    while time.monotonic() < until_s:
        for plan in (NEW, NEWER, OLD):
            _publish(engine, plan)
            time.sleep(0.05)
    stopped.set()
    for thread in threads:
        thread.join(10)
    assert problems == []
    assert {one.engine.plan_sha256 for one in reads if one is not None and one.engine is not None} == {
        facts_of(plan).plan_sha256 for plan in (OLD, NEW, NEWER)
    }


def test_an_engine_without_a_manifest(engine: Path) -> None:
    engine.write_bytes(OLD)
    assert manifest_of(plan_file(engine)) is None
    assert manifest_beside(engine) is None


def test_a_manifest_of_another_plan(engine: Path) -> None:
    write_pair(engine, OLD, manifest_for(NEW))
    assert len(OLD) == len(NEW)
    with pytest.raises(
        EngineError, match=r"model\.engine is damaged or was replaced: its bytes are not those"
    ):
        manifest_of(plan_file(engine))


def test_a_plan_that_was_cut(engine: Path) -> None:
    write_pair(engine, OLD)
    engine.write_bytes(OLD[:-1])
    wanted = rf"it has {len(OLD) - 1} bytes, its manifest says {len(OLD)}; copy it again"
    with pytest.raises(EngineError, match=wanted):
        manifest_of(plan_file(engine))


def test_one_bit_of_a_plan(built: EngineReport, tmp_path: Path) -> None:
    engine = tmp_path / built.path.name
    content = bytearray(built.path.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    manifest_path(engine).write_bytes(manifest_path(built.path).read_bytes())
    with pytest.raises(EngineError, match="its bytes are not those that its manifest was written for"):
        manifest_of(plan_file(engine))


def test_the_manifest_of_a_graph_is_no_engines(engine: Path) -> None:
    write_pair(engine, OLD, dataclasses.replace(manifest_for(OLD), engine=None))
    for read in (lambda: manifest_of(plan_file(engine)), lambda: manifest_beside(engine)):
        with pytest.raises(UnsupportedModelError, match=r"model\.engine\.json is no engine's manifest"):
            read()


def test_a_manifest_that_cannot_be_read(engine: Path) -> None:
    engine.write_bytes(OLD)
    manifest_path(engine).mkdir()
    with pytest.raises(EngineError, match=r"model\.engine\.json cannot be read"):
        manifest_of(plan_file(engine))


TEXTS = [
    b"",
    b"{",
    b"[]",
    b"5",
    b"null",
    b'"text"',
    b"{}",
    b'{"schema": 99}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_a_damaged_manifest(text: bytes, engine: Path) -> None:
    engine.write_bytes(OLD)
    manifest_path(engine).write_bytes(text)
    _assert_damaged(engine)


@pytest.mark.parametrize("length", [1, 40, 200, 400, 600])
def test_a_manifest_that_was_cut(length: int, engine: Path) -> None:
    text = write_pair(engine, OLD).to_json()
    assert len(text) > 600
    manifest_path(engine).write_text(text[:length])
    _assert_damaged(engine)


def _assert_damaged(engine: Path) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: manifest_of(plan_file(engine)),
        lambda: manifest_beside(engine),
        lambda: engine_at(engine, here()),
    ]
    for read in reads:
        with pytest.raises(UnsupportedModelError) as caught:
            read()
        assert "model.engine.json" in str(caught.value)
        assert "\n" not in str(caught.value)


def _write_with(engine: Path, part: str | None, changed: dict[str, Any]) -> None:
    """A pair whose manifest has other entries, among those of the engine or outside."""
    fields = json.loads(write_pair(engine, OLD).to_json())
    (fields if part is None else fields[part]).update(changed)
    manifest_path(engine).write_text(json.dumps(fields))


WRONG_FACTS: list[dict[str, Any]] = [
    {"builder": 5},
    {"builder_version": None},
    {"platform": ["linux"]},
    {"cuda": 13.0},
    {"device": {}},
    {"compute_capabilities": None},
    {"compute_capabilities": 8.9},
    {"profile": None},
    {"profile": []},
    {"profile": [1, 2]},
    {"profile": [1, 2, "x"]},
    {"profile": [1, 2, None]},
    {"profile": [1, float("inf"), 4]},
    {"profile": [1, float("nan"), 4]},
    {"options": []},
    {"options": None},
    {"onnx": 5},
    {"onnx": None},
    {"onnx_sha256": 0},
    {"plan_sha256": None},
    {"plan_sha256": ["a"]},
    {"plan_bytes": "128"},
    {"plan_bytes": None},
    {"no_such_entry": 1},
]


@pytest.mark.parametrize("changed", WRONG_FACTS, ids=str)
def test_entries_of_another_type(changed: dict[str, Any], engine: Path) -> None:
    _write_with(engine, "engine", changed)
    _assert_damaged(engine)


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": 5},
        {"engine": []},
        {"engine": {}},
        {"names": None},
        {"names": {"x": "cat"}},
        {"imgsz_hw": [64]},
        {"imgsz_hw": [64, float("inf")]},
        {"batch": None},
        {"batch": {"minimum": 1}},
    ],
    ids=str,
)
def test_entries_of_a_manifest_of_another_type(changed: dict[str, Any], engine: Path) -> None:
    _write_with(engine, None, changed)
    _assert_damaged(engine)


@pytest.mark.parametrize(
    "onnx",
    [
        "../secret.onnx",
        "..",
        ".",
        "/etc/passwd",
        "folder/model.onnx",
        "..\\secret.onnx",
        "C:\\secret.onnx",
        "C:secret.onnx",
        "\\\\server\\share\\secret.onnx",
        "a\0b.onnx",
    ],
)
def test_an_onnx_outside_the_folder_is_refused(onnx: str, engine: Path) -> None:
    (engine.parent.parent / "secret.onnx").touch()
    _write_with(engine, "engine", {"onnx": onnx})
    _assert_damaged(engine)


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
    start_s = time.monotonic()
    with locked(engine, timeout_s=10):
        assert time.monotonic() - start_s < 2


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
ROUNDS = 30
LONGEST_S = 1.2
LEFT = {"model.onnx", "model.engine", "model.engine.json", "model.engine.log"}


def test_builders_killed_at_any_moment_leave_a_whole_engine(graph: Path) -> None:
    """Each builds for another GPU, so that what is there afterwards tells whose it is."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    engine = graph.with_name("model.engine")
    engine_from_onnx(graph, engine=engine)
    builder, seen, killed = python(BUILDING, graph, engine, stdin=subprocess.PIPE), [_built_for(engine)], 0
    assert builder.stdin is not None
    assert builder.stdout is not None
    try:
        for index in range(ROUNDS):
            wanted = ("8.6", "8.9", "12.0")[index % 3]
            builder.stdin.write(wanted + "\n")
            builder.stdin.flush()
            pid = int(builder.stdout.readline())
            time.sleep(LONGEST_S * (index * 7 % ROUNDS) / ROUNDS)
            killed += bool(children_of(pid))  # its own builder runs still
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
    assert killed >= ROUNDS // 3
    engine_from_onnx(graph, engine=engine)
    assert _built_for(engine) == "8.0+"
    assert wait_until(lambda: left_in(graph.parent) == LEFT, 5), left_in(graph.parent)


def _built_for(engine: Path) -> str:
    """The GPUs of the manifest that fits the plan."""
    manifest = manifest_of(plan_file(engine))
    assert manifest is not None
    assert manifest.engine is not None
    assert manifest.engine.plan_bytes == engine.stat().st_size
    (capability,) = manifest.engine.compute_capabilities
    return capability
