"""An engine and its manifest change together, wherever a writer stops; and nobody trusts what a manifest says."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import (
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
from trt_yolo.build.engine_from_onnx import EngineReport
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.engine.plan import manifest_path, plan_file
from trt_yolo.engine.store import locked, manifest_beside, manifest_of, part_path, publish
from trt_yolo.errors import EngineError, InputError, UnsupportedModelError

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
    for plan in (NEW, NEWER, OLD) * 5:
        _publish(engine, plan)
        so_far = len(reads)
        assert wait_until(lambda so_far=so_far: len(reads) > so_far + len(threads) or problems, 30)
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
