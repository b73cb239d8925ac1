"""Engines on a GPU find what ONNX Runtime finds on the CPU, however they are run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.assertions import share_matched
from tests.gpu.conftest import MOST_GROWTH_BYTES, growth_bytes, used_bytes
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.backends.tensorrt import TensorRTBackend
from trt_yolo.build.self_test import self_test
from trt_yolo.demo.scenes import scene
from trt_yolo.detections import Detections
from trt_yolo.evaluation.parity import check_frames
from trt_yolo.loader import load

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("binding")]

Engines = dict[str, tuple[Path, Path]]

_SCENES = 24
_TOLERANCE = {
    "fp32": (0.95, 0.02),
    "dynamic": (0.95, 0.02),
    "fp16": (0.9, 0.03),
    "int8": (0.8, 0.15),
}  # IoU, score


@pytest.fixture(scope="module")
def images() -> list[npt.NDArray[np.uint8]]:
    return [scene(index).image_bgr for index in range(_SCENES)]


def _agree(got: list[Detections], wanted: list[Detections], kind: str) -> None:
    iou, score = _TOLERANCE[kind]
    found = sum(map(len, wanted))
    assert found > 50
    close = extra = 0
    for one, other in zip(got, wanted, strict=True):
        matched, alone = share_matched(one, other, iou=iou, score=score)
        close, extra = close + matched, extra + alone
    assert close >= 0.95 * found, f"{close} of {found}"
    assert extra <= 0.05 * found, f"{extra} that ONNX Runtime does not find"


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "dynamic"])
def test_detections(engines: Engines, images: list[npt.NDArray[np.uint8]], kind: str, workers: int) -> None:
    engine, onnx = engines[kind]
    with load(onnx, provider="cpu") as reference, load(engine, workers=workers) as model:
        _agree(model(images), reference(images), kind)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "plain"])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_streams_and_graphs(
    engines: Engines, images: list[npt.NDArray[np.uint8]], streams: int, graphs: bool
) -> None:
    engine, onnx = engines["dynamic"]
    with load(onnx, provider="cpu") as reference:
        wanted = reference(images)
    with load(engine, workers=1, streams=streams, graphs=graphs, slots=streams + 2) as model:
        for _ in range(3):  # plain, captured, replayed
            _agree(model(images), wanted, "dynamic")


def test_every_batch_size(engines: Engines) -> None:
    engine, onnx = engines["dynamic"]
    frames = np.resize(check_frames((256, 256), ()), (8, 256, 256, 3))
    with OnnxRuntimeBackend(onnx) as reference, TensorRTBackend(engine) as backend:
        for batch in range(1, 9):
            wanted = reference.infer(frames[:batch], conf=0.25, iou=0.7)
            for _ in range(3):
                got = backend.infer(frames[:batch], conf=0.25, iou=0.7)
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got[..., 4], wanted[..., 4], atol=0.02)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "plain"])
def test_the_bare_engine_runs_beside_batches(engines: Engines, graphs: bool) -> None:
    """What a bench compares with: it must not disturb what the backend finds."""
    engine, _ = engines["dynamic"]
    frames = np.resize(check_frames((256, 256), ()), (4, 256, 256, 3))
    with TensorRTBackend(engine, graphs=graphs) as backend:
        before = backend.infer(frames, conf=0.25, iou=0.7)
        call = backend.bare_call(frames, conf=0.25, iou=0.7)
        for _ in range(10):
            call()
        np.testing.assert_array_equal(backend.infer(frames, conf=0.25, iou=0.7), before)


def test_the_parts_of_a_batch_are_timed_beside_batches(engines: Engines) -> None:
    engine, _ = engines["dynamic"]
    frames = np.resize(check_frames((256, 256), ()), (4, 256, 256, 3))
    with TensorRTBackend(engine) as backend:
        before = backend.infer(frames, conf=0.25, iou=0.7)
        copy_in, run, copy_out = backend.timed_parts(frames, conf=0.25, iou=0.7)
        np.testing.assert_array_equal(backend.infer(frames, conf=0.25, iou=0.7), before)
    assert min(copy_in, run, copy_out) > 0
    assert run > copy_out


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "dynamic"])
def test_self_test(engines: Engines, kind: str) -> None:
    engine, onnx = engines[kind]
    with OnnxRuntimeBackend(onnx) as reference, TensorRTBackend(engine) as backend:
        assert self_test(backend, reference).detections > 0


def test_thresholds_change_without_a_new_graph(engines: Engines) -> None:
    engine, _ = engines["fp32"]
    frames = check_frames((256, 256), ())
    with TensorRTBackend(engine) as backend:
        found = [
            int((backend.infer(frames[:1], conf=conf, iou=0.7)[0, :, 4] > 0).sum())
            for conf in (0.01, 0.25, 0.9, 0.01)
        ]
    assert found[0] == found[3] > found[1] >= found[2]


def test_memory_of_the_device_stays_when_engines_come_and_go(engines: Engines) -> None:
    engine, _ = engines["fp32"]
    frames = check_frames((256, 256), ())

    def step(number: int) -> None:
        with TensorRTBackend(engine) as backend:
            backend.infer(frames[:1], conf=0.25, iou=0.7)

    assert growth_bytes(step, settled=5) < MOST_GROWTH_BYTES


def test_memory_of_the_device_stays_over_many_inferences(engines: Engines) -> None:
    engine, _ = engines["dynamic"]
    frames = np.resize(check_frames((256, 256), ()), (8, 256, 256, 3))
    with TensorRTBackend(engine) as backend:

        def step(number: int) -> None:
            backend.infer(frames[: 1 + number % 8], conf=0.25, iou=0.7)

        assert growth_bytes(step, settled=4 * 8) < MOST_GROWTH_BYTES


def test_a_worker_that_is_killed_loses_nothing(engines: Engines, images: list[npt.NDArray[np.uint8]]) -> None:
    engine, onnx = engines["fp32"]
    many = images * 40
    with load(onnx, provider="cpu") as reference, load(engine, workers=2) as model:
        wanted = reference(images)
        results = []
        for result in model.stream(many):
            results.append(result)
            if len(results) in (50, 300):
                os.kill(model.stats().workers[0].pid, signal.SIGKILL)
        assert [result.error for result in results] == [None] * len(many)
        _agree([result.detections for result in results[: len(images)]], wanted, "fp32")


def test_a_cancelled_start_leaves_no_context(engines: Engines) -> None:
    """A program of its own: a child that this process forked could not use CUDA."""
    engine, _ = engines["fp32"]
    before = used_bytes()
    script = (
        "import sys, trt_yolo; print('begun', flush=True); trt_yolo.load(sys.argv[1], workers=2); input()"
    )
    command = [sys.executable, "-c", script, str(engine)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        most, until = before, time.monotonic() + 20
        while most - before <= MOST_GROWTH_BYTES and time.monotonic() < until:
            most = max(most, used_bytes())
        program.kill()
    assert most - before > MOST_GROWTH_BYTES, "its workers never had a context"
    deadline = time.monotonic() + 20
    while used_bytes() - before > MOST_GROWTH_BYTES and time.monotonic() < deadline:
        time.sleep(0.2)
    assert used_bytes() - before <= MOST_GROWTH_BYTES
