"""How many times as fast INT8 is on this processor, and what is said of it."""

from __future__ import annotations

import functools
import time
from pathlib import Path

import numpy as np
import pytest

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.precision import speed
from trt_yolo.precision.speed import speed_here, speed_in_words, speedup


def test_the_median_of_ratios_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of our own: others make the machine three times as slow now and then, and it does not matter."""
    now_s, calls = [0.0], [0]

    def work(milliseconds: float) -> None:
        calls[0] += 1
        now_s[0] += milliseconds / 1e3 * (3 if calls[0] % 14 < 4 else 1)

    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    run = functools.partial(speed._median_ratio, functools.partial(work, 30), functools.partial(work, 20))
    assert run() == pytest.approx(1.5)
    assert 2 <= now_s[0] < 2.2
    monkeypatch.setattr(speed, "_SECONDS", 0)
    calls[0] = 0
    assert run() == pytest.approx(1.5)
    assert calls[0] == 10, "a slow model is measured a few times at least"


def test_two_artifacts_on_this_processor(demo_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SECONDS", 0)
    with OnnxRuntimeBackend(demo_onnx, threads=1) as backend:
        height, width = backend.manifest.frame_hw
    content, frame = demo_onnx.read_bytes(), np.zeros((height, width, 3), np.uint8)
    assert speedup(content, content, frame, threads=1) > 0


@pytest.mark.parametrize(
    ("ratio", "instructions", "wanted"),
    [
        (1.62, "AVX512 VNNI", "INT8 is 1.62 times as fast as FP32 here: this processor has AVX512 VNNI"),
        (
            0.96, "",
            "INT8 is slower than FP32 here (0.96): this processor has no VNNI or similar; use FP32 on it",
        ),
        (1.02, "i8mm", "INT8 is no faster than FP32 here (1.02): this processor has i8mm; use FP32 on it"),
    ],
)  # fmt: skip
def test_it_is_said(
    ratio: float, instructions: str, wanted: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    assert speed_in_words(ratio, instructions) == wanted
    monkeypatch.setattr(speed, "speedup", lambda *given, **more: ratio)
    monkeypatch.setattr(speed, "int8_instructions", lambda flags: instructions)
    assert speed_here(b"", b"", np.zeros((1, 1, 3), np.uint8), threads=1) == (ratio, instructions)
    assert caplog.messages == ([wanted] if ratio < 1.05 else [])
