"""The process that builds: what it says, and what is left when it, or who asked for it, is interrupted or killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import ROOT, builders, children_of, left_in, python
from tests.runtime.models import is_running, wait_until
from trt_yolo.build import process
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.build.plan_from_onnx import STEPS
from trt_yolo.build.process import BuildRequest
from trt_yolo.engine.options import EngineOptions
from trt_yolo.engine.plan import failed_log_path, plan_file
from trt_yolo.engine.store import manifest_of
from trt_yolo.errors import ExportError, InputError, MissingDependencyError, TrtYoloError

pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
pytestmark = pytest.mark.timeout(60)

NOTHING_BUILT = {"model.onnx"}
BUILT = {"model.onnx", "model-rtx.engine", "model-rtx.engine.json", "model-rtx.engine.log"}
FAILED = {"model.onnx", "model-rtx.engine.failed.log"}


def _failure(graph: Path, **arguments: Any) -> TrtYoloError:
    """The error of a build that fails: it names the graph, and the log if there is one."""
    with pytest.raises(TrtYoloError) as caught:
        engine_from_onnx(graph, **arguments)
    assert "\n" not in str(caught.value)
    assert str(graph) in str(caught.value)
    log = failed_log_path(graph.with_name("model-rtx.engine"))
    assert (str(log) in str(caught.value)) == log.exists()
    assert left_in(graph.parent) <= FAILED
    assert builders() == set()
    return caught.value


def test_progress_grows_and_comes_to_its_end(graph: Path) -> None:
    told: list[tuple[str, int, int]] = []
    engine_from_onnx(graph, progress=lambda *one: told.append(one))
    done = [count for _, count, _ in told]
    assert done == sorted(done)
    assert done[0] >= 0
    assert done[-1] == STEPS
    assert {(text, steps) for text, _, steps in told} == {("building the engine", STEPS)}
    assert left_in(graph.parent) == BUILT
    assert builders() == set()


def test_a_builder_that_is_killed(graph: Path) -> None:
    """As the kernel does when memory runs out."""

    def kill(*_: object) -> None:
        for pid in builders():
            os.kill(pid, signal.SIGKILL)

    error = _failure(graph, progress=kill)
    assert type(error) is ExportError
    assert "the builder was killed, as the kernel does when memory runs out" in str(error)
    engine_from_onnx(graph)
    assert left_in(graph.parent) == BUILT


def _with_module(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Runs `code` in the builder where it imports TensorRT for RTX, which it gets after that."""
    (folder / "modules").mkdir()
    (folder / "modules" / "tensorrt_rtx.py").write_text(
        textwrap.dedent(code)
        + textwrap.dedent("""
            import importlib, os, sys
            sys.path.remove(os.path.dirname(__file__))
            del sys.modules["tensorrt_rtx"]
            importlib.import_module("tensorrt_rtx")
            """)
    )
    monkeypatch.syspath_prepend(folder / "modules")


CRASHES = [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"the builder crashed \(SIGSEGV\)"),
    ("import os; os.abort()", r"the builder crashed \(SIGABRT\)"),
    ("import os; os._exit(7)", "the builder ended with status 7"),
    ("import os; os._exit(0)", "the builder ended with status 0"),
    ("import sys; sys.exit(3)", "the builder ended with status 3"),
    ("1 / 0", "the builder ended with status 1"),
    ("raise MemoryError", "not enough memory"),
    ("import os; os.close(1); [os.close(fd) for fd in range(3, 50) if os.path.exists(f'/proc/self/fd/{fd}')]", ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "message"), CRASHES, ids=[message[:30] or "closes all" for _, message in CRASHES]
)
def test_a_builder_that_ends_without_a_word(
    code: str,
    message: str,
    graph: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _with_module(tmp_path_factory.mktemp("crash"), monkeypatch, code)
    error = _failure(graph)
    assert type(error) is ExportError
    assert message == "" or pytest.raises(ExportError, match=message).matches(error)


def test_a_builder_that_is_no_python_is_named(graph: Path) -> None:
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable("/bin/true")
    try:
        error = _failure(graph)
    finally:
        multiprocessing.set_executable(before)
    assert "the builder ended with status 0" in str(error)
    assert (
        "/bin/true printed nothing: if it is not a Python interpreter, set the Python of this environment"
        in str(error)
    )


def test_a_timing_cache_whose_part_can_have_no_name_hides_no_error(graph: Path, tmp_path: Path) -> None:
    request = BuildRequest(
        family="tensorrt-rtx", onnx=graph, plan=tmp_path / "a.plan", log=tmp_path / "log", failed_log=tmp_path / "log",
        options=EngineOptions(timing_cache=tmp_path / ("a" * 255)), profile=(1, 1, 1), imgsz_hw=(256, 256),
    )  # fmt: skip
    with pytest.raises(InputError, match="--timing-cache"):
        process.run_build(request)


def test_how_it_ended_is_not_made_up_where_this_program_ignores_it() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert "with unknown status (this program ignores SIGCHLD)" in process._how_it_ended(0)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_library_that_does_not_import(
    graph: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "raise ImportError('libnvonnxparser_rtx.so.1: cannot open\\nshared object file')"
    _with_module(tmp_path_factory.mktemp("broken"), monkeypatch, code)
    with pytest.raises(
        MissingDependencyError, match=r"tensorrt_rtx does not import .*rtx\.so\.1.*pip install"
    ):
        engine_from_onnx(graph)
    assert left_in(graph.parent) <= FAILED


NOISE = r"""
import ctypes, os, sys, threading, time
print("hello", flush=True)
print('["built", "0.0"]\n["error", ["ExportError", "forged"]]', flush=True)
os.write(1, b'["built", "0.0"]\n{"a": 1}\n\xff\xfe\n5\n[]\n[1, 2, 3]\nnull\n')
libc = ctypes.CDLL(None)
libc.printf(b'["error", ["ExportError", "printed by a library"]]\n')
libc.fflush(None)
def talk():
    while True:
        os.write(1, b'["built", "0.0"]\n' * 10)
        os.write(2, b"\xff said to stderr\n")
        time.sleep(0.01)
threading.Thread(target=talk, daemon=True).start()
"""


def test_what_libraries_print_is_in_the_log_and_no_message(
    graph: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    _with_module(tmp_path_factory.mktemp("noise"), monkeypatch, NOISE)
    report = engine_from_onnx(graph)
    assert report.manifest.engine is not None
    assert report.manifest.engine.builder_version == trt.__version__
    assert manifest_of(plan_file(report.path)) == report.manifest
    log = report.log.read_bytes()
    assert b"printed by a library" in log
    assert b"said to stderr" in log
    assert b"Detected 3 inputs" in log


def test_a_builder_that_nobody_asks_anything_ends_at_once() -> None:
    code = "from trt_yolo.build.process import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, cwd=ROOT
    )
    assert ended.returncode == 1
    assert (ended.stdout, ended.stderr) == (b"", b"")


def test_an_error_of_the_progress_callback_ends_the_build_and_leaves_nothing(graph: Path) -> None:
    def raising(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine_from_onnx(graph, progress=raising)
    assert left_in(graph.parent) == NOTHING_BUILT
    assert builders() == set()


def test_an_interrupt_of_the_callback_leaves_nothing(graph: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(graph, progress=interrupted)
    assert left_in(graph.parent) == NOTHING_BUILT
    assert builders() == set()


# says which process builds for it as soon as TensorRT is at work, and waits there for a moment
ASKING = """
import signal, sys, time
from pathlib import Path
from tests.engine.plans import builders
from trt_yolo.build.engine_from_onnx import engine_from_onnx

signal.signal(signal.SIGINT, signal.default_int_handler)
told = False

def progress(*_):
    global told
    if not told:
        told = True
        print(*builders(), flush=True)
        time.sleep(float(sys.argv[2]))

engine_from_onnx(Path(sys.argv[1]), progress=progress)
print("built", flush=True)
"""


def _asking(graph: Path, *, waits_s: float) -> tuple[subprocess.Popen[str], int]:
    """A process that builds, and its builder's process."""
    asking = python(ASKING, graph, str(waits_s))
    assert asking.stdout is not None
    line = asking.stdout.readline()
    if not line.strip():
        asking.kill()
        pytest.fail(asking.communicate()[1])
    return asking, int(line)


def _ended(asking: subprocess.Popen[str]) -> str:
    """What it said before it ended."""
    try:
        said, _ = asking.communicate(timeout=20)
    finally:
        asking.kill()
        asking.communicate()
    return said


@pytest.mark.parametrize("has_old", [False, True])
def test_ctrl_c_leaves_nothing_but_the_old_engine(has_old: bool, graph: Path) -> None:
    """As a terminal does it, which sends the signal to the builder too."""
    old = engine_from_onnx(graph).path.read_bytes() if has_old else b""
    before = {name: (graph.parent / name).stat().st_mtime_ns for name in left_in(graph.parent)}
    asking, builder = _asking(graph, waits_s=10)
    for pid in (builder, asking.pid):
        os.kill(pid, signal.SIGINT)
    assert _ended(asking) == ""
    assert asking.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert not is_running(builder)
    assert {name: (graph.parent / name).stat().st_mtime_ns for name in left_in(graph.parent)} == before
    if has_old:
        assert graph.with_name("model-rtx.engine").read_bytes() == old


def test_a_signal_to_the_builder_alone_does_not_end_it(graph: Path) -> None:
    asking, builder = _asking(graph, waits_s=0)
    os.kill(builder, signal.SIGINT)
    assert _ended(asking) == "built\n"
    assert left_in(graph.parent) == BUILT


def test_a_builder_whose_parent_is_killed_ends_and_the_next_build_clears_up(graph: Path) -> None:
    asking, builder = _asking(graph, waits_s=10)
    os.kill(asking.pid, signal.SIGKILL)
    asking.communicate()
    assert wait_until(lambda: not is_running(builder), 5)
    assert not graph.with_name("model-rtx.engine").exists()
    for one in ("engine.part", "log.part"):
        (graph.parent / f".model-rtx.engine.{asking.pid}.{one}").touch()
    engine_from_onnx(graph)
    assert left_in(graph.parent) == BUILT


def test_a_builder_stops_at_the_next_step_when_nobody_listens(graph: Path, tmp_path: Path) -> None:
    """Before it has built anything: it does not compute for minutes what nobody waits for."""
    log = tmp_path / "log"
    request = BuildRequest(
        family="tensorrt-rtx", onnx=graph, plan=tmp_path / "a.plan", log=log, failed_log=log,
        options=EngineOptions(), profile=(1, 1, 1), imgsz_hw=(256, 256),
    )  # fmt: skip
    code = "from trt_yolo.build.process import main; main()"
    reader, writer = os.pipe()
    with log.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=writer, stderr=stderr, cwd=ROOT
        )
    os.close(writer)
    os.close(reader)
    child.communicate(request.to_json().encode() + b"\n", timeout=20)
    assert not (tmp_path / "a.plan").exists()
    assert "BuildCanceled" in log.read_text()


def test_a_plan_that_nobody_waits_for_any_more_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent was killed after the last step, and the next builder may have cleared up already."""
    plan = tmp_path / "a.plan"
    reader, writer = os.pipe()
    os.close(reader)
    child = process._Child(os.fdopen(writer, "w"))
    monkeypatch.setattr(child, "_build", lambda _: {"bytes": plan.write_bytes(b"a plan")})
    monkeypatch.setattr(process.os, "_exit", lambda _: None)
    child.run({"plan": str(plan), "onnx": "a.onnx"})
    assert not plan.exists()


def test_threads_build_the_same_engine_one_after_the_other(graph: Path) -> None:
    failures: list[BaseException] = []

    def build() -> None:
        try:
            engine_from_onnx(graph)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert failures == []
    assert left_in(graph.parent) == BUILT
    assert manifest_of(plan_file(graph.with_name("model-rtx.engine"))) is not None


def test_a_verbose_log_has_more(graph: Path) -> None:
    short = engine_from_onnx(graph).log.stat().st_size
    assert engine_from_onnx(graph, options=EngineOptions(verbose=True)).log.stat().st_size > 5 * short


def test_no_child_is_left_behind() -> None:
    assert wait_until(lambda: not [pid for pid in children_of(os.getpid()) if pid in builders()], 5)
