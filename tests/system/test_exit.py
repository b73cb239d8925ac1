"""A program that ends in the middle of things: its threads are awaited, or the process would end with SIGABRT."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_yolo.system import exit as exit_module

_BUSY = """
import threading, time, cv2, numpy as np
from trt_yolo.system.exit import await_at_exit
over = threading.Event()
def work():
    image = np.zeros((3000, 3000, 3), np.uint8)
    while not over.is_set():
        cv2.GaussianBlur(image, (31, 31), 0)
for _ in range(2):
    thread = threading.Thread(target=work, daemon=True)
    await_at_exit(thread, over.set)
    thread.start()
time.sleep(0.5)
"""

_STREAM = """
import sys, cv2, numpy as np, trt_yolo
source = {source}
model = trt_yolo.load(sys.argv[1], workers={workers})
results = model.stream(source)
print(len(next(results).detections) >= 0)
"""

_VIDEO = "(cv2.GaussianBlur(np.zeros((3000, 3000, 3), np.uint8), (31, 31), 0) for _ in range(1000))"


def _ended(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_thread_in_the_middle_of_a_call_is_awaited() -> None:
    done = _ended(_BUSY)
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_that_hang_hold_the_end_up_for_two_seconds_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, waits_s = [100.0], []

    class Hanging(threading.Thread):
        def is_alive(self) -> bool:
            return True

        def join(self, timeout: float | None = None) -> None:
            assert timeout is not None
            waits_s.append(timeout)
            now_s[0] += timeout

    threads = [Hanging(), Hanging()]
    monkeypatch.setattr(exit_module, "_THREADS", {thread: lambda: 1 / 0 for thread in threads})
    monkeypatch.setattr(exit_module.time, "monotonic", lambda: now_s[0])
    exit_module._await_all()
    assert waits_s == [2, 0]


def test_a_thread_that_hangs_does_not_keep_a_program_from_ending() -> None:
    done = _ended(
        "import threading\nfrom trt_yolo.system.exit import await_at_exit\n"
        "thread = threading.Thread(target=threading.Event().wait, daemon=True)\n"
        "await_at_exit(thread, lambda: 1 / 0)\nthread.start()\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "source",
    [
        pytest.param("[sys.argv[2]] * 500", id="files"),
        pytest.param("iter([sys.argv[2]] * 500)", id="files-read-by-a-thread"),
        pytest.param(_VIDEO, id="video"),
    ],
)
def test_a_stream_that_is_left_in_the_middle(
    source: str, workers: int, demo_onnx: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2400, 3200, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "large.jpg"), noise)
    done = _ended(_STREAM.format(source=source, workers=workers), str(demo_onnx), str(tmp_path / "large.jpg"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
