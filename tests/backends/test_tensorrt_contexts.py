"""An engine in one lane, without TensorRT: its contexts share one scratch buffer, and what is refused is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.backends.host_gpu import HostGpu
from tests.engine.plans import manifest_for, tensorrt_plan
from trt_yolo.backends.tensorrt import _Contexts
from trt_yolo.errors import BackendError

MANIFEST = manifest_for(tensorrt_plan())  # frames of 64x96, batch 1 to 4
ADDRESSES = {"frames": 1, "conf": 2, "iou": 3, "detections": 4, "unconverged": 5}


class _Context:
    """An execution context that notes what it is given."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes, self.scratch, self.bound = shapes, (0, 0), dict[str, int]()
        self.runs = True

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        return self.runs


class _Engine:
    """What `LoadedEngine` is asked for; a kilobyte of scratch memory a frame."""

    manifest = MANIFEST
    inputs, outputs = ("frames", "conf", "iou"), ("detections", "unconverged")

    def __init__(self) -> None:
        self.contexts: list[_Context] = []

    def context(self, shapes: dict[str, tuple[int, ...]]) -> _Context:
        self.contexts.append(_Context(shapes))
        return self.contexts[-1]

    def scratch_bytes(self, context: _Context) -> int:
        return 1024 * context.shapes["frames"][0]

    def bind(self, context: _Context, name: str, address: int) -> None:
        context.bound[name] = address

    def is_capturable(self, context: _Context, stream: int) -> bool:
        return context is not self.contexts[0]

    def failure(self) -> str:
        return f"tensorrt 11.4 did not run {Path('model.engine')}: myelin"


@pytest.fixture
def engine() -> _Engine:
    return _Engine()


@pytest.fixture
def lane(engine: _Engine) -> Any:
    gpu: Any = HostGpu()
    made: Any = engine
    with gpu.current():
        contexts = _Contexts(gpu, made, gpu.stream())
        for batch in (1, 2, 4, 1):
            contexts.prepared(batch, ADDRESSES)()
        yield contexts


def test_all_sizes_share_the_scratch_memory_of_the_largest(lane: Any, engine: _Engine) -> None:
    assert [one.shapes["frames"] for one in engine.contexts] == [
        (4, 64, 96, 3),
        (1, 64, 96, 3),
        (2, 64, 96, 3),
    ]
    assert {one.scratch for one in engine.contexts} == {engine.contexts[0].scratch}
    assert engine.contexts[0].scratch[1] == 4096
    assert lane._gpu.log.count("memory") == 1


def test_every_tensor_is_bound(lane: Any, engine: _Engine) -> None:
    assert [one.bound for one in engine.contexts] == [ADDRESSES] * 3


def test_what_does_not_run_is_asked_of_the_gpu(lane: Any, engine: _Engine) -> None:
    """A sticky error of CUDA's looks like any other failure to TensorRT."""
    engine.contexts[1].runs = False
    with pytest.raises(
        BackendError, match=r"GPU 0 refuses: tensorrt 11\.4 did not run model\.engine: myelin"
    ):
        lane.prepared(1, ADDRESSES)()


def test_the_engine_says_what_can_be_captured(lane: Any) -> None:
    assert [lane.is_capturable(batch) for batch in (1, 2, 4)] == [True, True, False]
