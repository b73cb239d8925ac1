"""ONNX Runtime on a GPU finds what it finds on the CPU, captured and not, in one stream and in three."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.assertions import share_matched
from tests.gpu.artifacts import demo_artifacts, deploy_artifacts
from tests.gpu.conftest import MOST_GROWTH_BYTES, growth_bytes
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.backends.onnxruntime_gpu import OnnxRuntimeGpuBackend
from trt_yolo.backends.onnxruntime_providers import PROVIDERS, ProviderName, unusable
from trt_yolo.build.self_test import self_test
from trt_yolo.demo.scenes import scene
from trt_yolo.detections import Detections
from trt_yolo.evaluation.parity import check_frames
from trt_yolo.hardware.gpus import Device
from trt_yolo.loader import load

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("binding")]

Onnx = dict[str, Path]
_TOLERANCE = {"fp32": (0.95, 0.02), "dynamic": (0.95, 0.02), "fp16": (0.9, 0.03), "int8": (0.8, 0.15)}


@pytest.fixture(scope="module")
def onnx(gpu: Device, tmp_path_factory: pytest.TempPathFactory) -> Onnx:
    """The demo model: fp32, fp16, int8, static, and fp32 with a batch of 1 to 8."""
    return demo_artifacts(tmp_path_factory.mktemp("onnx"))


@pytest.fixture(params=list(PROVIDERS))
def provider(request: pytest.FixtureRequest) -> ProviderName:
    """Each provider that this ONNX Runtime has."""
    name: ProviderName = request.param
    if reason := unusable(name):
        pytest.skip(reason)
    return name


@pytest.fixture(scope="module")
def images() -> list[npt.NDArray[np.uint8]]:
    return [scene(index).image_bgr for index in range(24)]


def _agree(got: list[Detections], wanted: list[Detections], kind: str) -> None:
    iou, score = _TOLERANCE[kind]
    found = sum(map(len, wanted))
    assert found > 50
    pairs = [share_matched(one, other, iou=iou, score=score) for one, other in zip(got, wanted, strict=True)]
    assert sum(close for close, _ in pairs) >= 0.95 * found
    assert sum(extra for _, extra in pairs) <= 0.05 * found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", list(_TOLERANCE))
def test_detections(
    onnx: Onnx, provider: ProviderName, images: list[npt.NDArray[np.uint8]], kind: str, workers: int
) -> None:
    with (
        load(onnx[kind], provider="cpu") as reference,
        load(onnx[kind], provider=provider, workers=workers) as model,
    ):
        wanted = reference(images)
        for _ in range(3):  # plain, captured, replayed
            _agree(model(images), wanted, kind)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "plain"])
@pytest.mark.parametrize("streams", [1, 2, 3])
def test_streams_and_graphs(
    onnx: Onnx, provider: ProviderName, images: list[npt.NDArray[np.uint8]], streams: int, graphs: bool
) -> None:
    with load(onnx["fp32"], provider="cpu") as reference:
        wanted = reference(images)
    with load(
        onnx["fp32"], provider=provider, workers=1, streams=streams, graphs=graphs, slots=streams + 2
    ) as model:
        for _ in range(3):
            _agree(model(images), wanted, "fp32")
        about = model.stats().workers[0].about
    assert about["memory"] == "registered"
    assert about["graphs"] == ("captured by ONNX Runtime" if graphs else "off")


def test_every_batch_size(onnx: Onnx, provider: ProviderName) -> None:
    frames = np.resize(check_frames((256, 256), ()), (8, 256, 256, 3))
    with (
        OnnxRuntimeBackend(onnx["dynamic"]) as reference,
        OnnxRuntimeGpuBackend(onnx["dynamic"], provider=provider) as backend,
    ):
        for batch in range(1, 9):
            wanted = reference.infer(frames[:batch], conf=0.25, iou=0.7)
            for _ in range(3):
                got = backend.infer(frames[:batch], conf=0.25, iou=0.7)
                np.testing.assert_allclose(got[..., 4], wanted[..., 4], atol=0.02)


@pytest.mark.parametrize("kind", list(_TOLERANCE))
def test_self_test(onnx: Onnx, provider: ProviderName, kind: str) -> None:
    with (
        OnnxRuntimeBackend(onnx[kind]) as reference,
        OnnxRuntimeGpuBackend(onnx[kind], provider=provider) as backend,
    ):
        assert self_test(backend, reference).detections > 0


@pytest.mark.parametrize("path", deploy_artifacts(), ids=lambda path: path.name)
def test_self_test_of_what_was_brought(
    path: Path, provider: ProviderName, record_property: Callable[[str, object], None]
) -> None:
    """`TRT_YOLO_ARTIFACTS`: other models than the demo."""
    if path.suffix != ".onnx":
        pytest.skip("an engine")
    with OnnxRuntimeBackend(path) as reference, OnnxRuntimeGpuBackend(path, provider=provider) as backend:
        found = self_test(backend, reference)
    for name, value in dataclasses.asdict(found).items():
        record_property(name, value)


def test_a_model_is_loaded_beside_one_that_runs(onnx: Onnx, images: list[npt.NDArray[np.uint8]]) -> None:
    """In one process: one captures its graphs, in CUDA's global mode, while the other's thread works."""
    if reason := unusable("cuda"):
        pytest.skip(reason)
    with load(onnx["fp32"], provider="cpu") as reference:
        wanted = reference(images)
    found: list[list[Detections]] = []
    stop = threading.Event()
    with load(onnx["fp32"], provider="cuda") as model:

        def work() -> None:
            while not stop.is_set():
                found.append(model(images))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(3):
                with load(onnx["dynamic"], provider="cuda") as other:
                    _agree(other(images), wanted, "dynamic")
        finally:
            stop.set()
            thread.join()
    assert len(found) > 3
    for one in found:
        _agree(one, wanted, "fp32")


def test_the_bare_session_runs_beside_batches(onnx: Onnx, provider: ProviderName) -> None:
    frames = np.resize(check_frames((256, 256), ()), (4, 256, 256, 3))
    with OnnxRuntimeGpuBackend(onnx["dynamic"], provider=provider) as backend:
        before = backend.infer(frames, conf=0.25, iou=0.7)
        call = backend.bare_call(frames, conf=0.25, iou=0.7)
        for _ in range(10):
            call()
        assert min(backend.timed_parts(frames, conf=0.25, iou=0.7)) > 0
        np.testing.assert_allclose(backend.infer(frames, conf=0.25, iou=0.7), before, atol=1e-3)


def test_auto_takes_the_gpu(onnx: Onnx) -> None:
    if reason := unusable("cuda"):
        pytest.skip(reason)
    with load(onnx["fp32"], workers=1) as model:
        assert model.stats().workers[0].about["provider"] == "cuda"
        assert [one.index for one in model.stats().gpus] == [0]


def test_a_worker_that_is_killed_loses_nothing(
    onnx: Onnx, provider: ProviderName, images: list[npt.NDArray[np.uint8]]
) -> None:
    many = images * 20
    with (
        load(onnx["fp32"], provider="cpu") as reference,
        load(onnx["fp32"], provider=provider, workers=2) as model,
    ):
        wanted = reference(images)
        results = []
        for result in model.stream(many):
            results.append(result)
            if len(results) == 50:
                os.kill(model.stats().workers[0].pid, signal.SIGKILL)
        assert [result.error for result in results] == [None] * len(many)
        _agree([result.detections for result in results[: len(images)]], wanted, "fp32")


def test_memory_stays_over_many_batches(onnx: Onnx, provider: ProviderName) -> None:
    frames = np.resize(check_frames((256, 256), ()), (8, 256, 256, 3))
    with OnnxRuntimeGpuBackend(onnx["dynamic"], provider=provider) as backend:

        def step(number: int) -> None:
            backend.infer(frames[: 1 + number % 8], conf=0.25, iou=0.7)

        assert growth_bytes(step, settled=4 * 8) < MOST_GROWTH_BYTES


def test_memory_stays_when_sessions_come_and_go(onnx: Onnx, provider: ProviderName) -> None:
    frames = check_frames((256, 256), ())

    def step(number: int) -> None:
        with OnnxRuntimeGpuBackend(onnx["fp32"], provider=provider) as backend:
            backend.infer(frames[:1], conf=0.25, iou=0.7)

    assert growth_bytes(step, settled=4) < MOST_GROWTH_BYTES
