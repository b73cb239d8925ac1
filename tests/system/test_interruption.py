"""Ctrl-C and SIGTERM: held back where they would cut work in two, and an export that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_yolo.artifacts.files import write_files
from trt_yolo.system.interruption import temporary_folder, uninterrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", _SIGNALS)
def test_a_signal_comes_when_the_block_is_left(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    done: list[int] = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(number)
            done.append(number)

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert done


@pytest.fixture
def _both_interrupt() -> Iterator[None]:
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_both_interrupt")
def test_handlers_are_put_back_though_a_signal_comes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    put = signal.signal

    def interrupted(number: int, handler: Any) -> Any:
        before = put(number, handler)
        if handler is signal.default_int_handler:
            signal.raise_signal(signal.SIGINT)
        return before

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(signal, "signal", interrupted)
        with uninterrupted():
            pass
    assert [signal.getsignal(number) for number in _SIGNALS] == [signal.default_int_handler] * 2


def test_nothing_is_held_in_another_thread() -> None:
    handlers: list[object] = []

    def work() -> None:
        with uninterrupted():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_a_folder_is_gone_whatever_ends_the_block() -> None:
    used = []

    def work() -> None:
        with temporary_folder() as folder:
            used.append(folder)
            (folder / "file").touch()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not used[0].exists()


def test_files_are_written_together_while_signals_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        signal.raise_signal(signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"a", tmp_path / "b": b"b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


_EXPORT = """
import sys
print("imported", flush=True)
from trt_yolo.cli.main import run
run()
"""


def _left_by_export(folder: Path, number: int, after_s: float) -> set[str]:
    """The files and folders that an export leaves that gets a signal."""
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _EXPORT, "export", "--imgsz", "64", "--out", str(folder / "out")],
        env={**os.environ, "TMPDIR": str(folder / "tmp")}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after_s)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    onnxruntimes = "tmp/.ses"
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} - {"tmp", onnxruntimes}


@pytest.mark.parametrize(
    ("number", "after_s"),
    [(signal.SIGINT, 0.3), (signal.SIGTERM, 0.6), (signal.SIGINT, 0.8), (signal.SIGTERM, 1.0)],
)
def test_an_export_that_is_ended_leaves_all_or_nothing(number: int, after_s: float, tmp_path: Path) -> None:
    left = _left_by_export(tmp_path, number, after_s)
    assert left in (set(), {"out", "out/demo-64.onnx", "out/demo-64.onnx.json"})
    if left:
        json.loads((tmp_path / "out/demo-64.onnx.json").read_text())
