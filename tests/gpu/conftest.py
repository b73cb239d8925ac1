"""Tests that need a GPU: `pytest -m gpu`. Without one they are skipped, or fail where `TRT_YOLO_REQUIRE_GPU=1`."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gpu.artifacts import demo_artifacts
from trt_yolo.backends.cuda import Gpu
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.hardware.gpus import Device, devices

# those that are installed: every test that runs a model runs over each of them
_MODULES = {"cuda-bindings": "cuda", "pycuda": "pycuda"}
BINDINGS = [name for name, module in _MODULES.items() if importlib.util.find_spec(module)]


LOAD_S = float(os.environ.get("TRT_YOLO_LOAD_S", "10"))  # for each test that repeats something
MOST_GROWTH_BYTES = 16 << 20  # of device memory, which nobody minds


def used_bytes() -> int:
    """Device memory in use, whoever uses it."""
    gpu = Gpu(0)
    try:
        with gpu.current():
            free, total = gpu.free_and_total_bytes()
            return total - free
    finally:
        gpu.close()


def growth_bytes(
    step: Callable[[int], object], *, settled: int, most: int | None = None, limit_s: float = LOAD_S
) -> int:
    """Device memory that steps leave behind, those not counted in which it still settles.

    Args:
        step: Called with 0, 1, 2 and so on, twice as often as it takes to settle at least.
        settled: Steps that are not counted.
        most: How often it is called; None: until the time is over.
        limit_s: The time, in seconds.
    """
    end_s, begun = time.monotonic() + limit_s, 0
    for number in itertools.count() if most is None else range(most):
        step(number)
        if number == settled:
            gc.collect()
            begun = used_bytes()
        if number >= 2 * settled and time.monotonic() > end_s:
            break
    gc.collect()
    return used_bytes() - begun


def need(what: bool, reason: str) -> None:
    """Skips where that is not so; fails where `TRT_YOLO_REQUIRE_GPU=1`."""
    if what:
        return
    if os.environ.get("TRT_YOLO_REQUIRE_GPU") == "1":
        pytest.fail(f"{reason}, and TRT_YOLO_REQUIRE_GPU=1 asks for one")
    pytest.skip(reason)


@pytest.fixture(params=BINDINGS or ["cuda-bindings"])
def binding(request: pytest.FixtureRequest, gpu: Device, monkeypatch: pytest.MonkeyPatch) -> str:
    """A CUDA binding, of this process and of its workers."""
    monkeypatch.setenv("TRT_YOLO_CUDA", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def gpu() -> Device:
    """The first GPU."""
    found = devices()
    need(bool(found), "no NVIDIA GPU answers here")
    return found[0]


@pytest.fixture(scope="session")
def engines(gpu: Device, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Engine and ONNX of the demo model: fp32, fp16 and int8, static, and fp32 with a batch of 1 to 8."""
    made = {}
    for name, onnx in demo_artifacts(tmp_path_factory.mktemp("gpu")).items():
        engine = engine_from_onnx(onnx).path
        need(not engine_at(engine).problem, engine_at(engine).problem)
        made[name] = (engine, onnx)
    return made
