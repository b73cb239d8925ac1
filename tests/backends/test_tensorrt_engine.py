"""Contexts of an engine, as far as that can be seen without a GPU: a TensorRT that is made up answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.plans import tensorrt_plan
from trt_yolo.backends.tensorrt_engine import LoadedEngine
from trt_yolo.engine.compatibility import Engine
from trt_yolo.engine.library import Library
from trt_yolo.engine.plan import Family, plan_file
from trt_yolo.errors import BackendError

USER_MANAGED = "user managed"


class _Context:
    """Takes a batch of 4 at most, and no address below 256."""

    def __init__(self, logger: Any) -> None:
        self.logger, self.shapes, self.addresses = logger, dict[str, Any](), dict[str, int]()
        self.scratch = 1024

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert isinstance(shape, tuple), "TensorRT takes tuples and lists"
        self.shapes[name] = shape
        if shape[0] <= 4:
            return True
        self.logger.log(1, "IExecutionContext::setInputShape:\nError Code 3: not in the profile")
        return False

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 256 == 0

    def update_device_memory_size_for_shapes(self) -> int:
        return self.scratch


class _Capturable(_Context):
    def is_stream_capturable(self, stream: int) -> bool:
        return stream == 7


class _Config:
    """The runtime configuration of TensorRT for RTX."""

    def __init__(self) -> None:
        self.strategy = None
        self.cache = SimpleNamespace(deserialize=lambda data: self.refuse(data), serialize=lambda: b"cache")
        self.refuse: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> Any:
        return self.cache

    def set_runtime_cache(self, cache: Any) -> None:
        assert cache is self.cache

    def get_runtime_cache(self) -> Any:
        return self.cache


class _Trt:
    """What a `LoadedEngine` calls of TensorRT."""

    TensorIOMode = SimpleNamespace(INPUT="input")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=USER_MANAGED)
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    class ILogger:
        pass

    num_io_tensors = 2
    device_memory_size_v2 = 4096
    kind: Any = _Context
    sound = True

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if plan.endswith(b"garbage"):
            self.logger.log(1, "Serialization assertion failed")
            return None
        return self

    def get_tensor_name(self, index: int) -> str:
        return ("images", "output0")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "images" else "output"

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        return (-1, 3, 64, 64) if name == "images" else (-1, 6, 84)

    def create_runtime_config(self) -> _Config:
        self.config = _Config()
        self.config.refuse = lambda data: self.logger.log(1, "the cache is of another GPU")
        return self.config

    def create_execution_context(self, strategy: Any) -> Any:
        self.strategy = strategy
        return self.kind(self.logger) if self.sound else None


ULTRALYTICS = {
    "task": "detect",
    "stride": "32",
    "names": "{0: 'a', 1: 'b'}",
    "imgsz": "[64, 64]",
    "batch": "4",
}


def _loaded(
    tmp_path: Path, trt: Any, *, family: Family = "tensorrt", body: bytes = bytes(100)
) -> LoadedEngine:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan(body))
    library: Any = Library.__new__(Library)
    library.family, library.version, library.lean, library.name = family, "1.2.3", False, family
    library.trt, library.cuda, library.package = trt, 0, ""
    plan = plan_file(path)
    plan.metadata.update(ULTRALYTICS)
    return LoadedEngine(Engine(plan=plan, manifest=None, problem=""), library)


def test_garbage_is_refused_with_tensorrts_own_words(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"does not load .*model\.engine: Serialization assertion failed"):
        _loaded(tmp_path, _Trt(), body=b"garbage")


def test_a_context_has_its_shapes_and_no_memory_of_its_own(tmp_path: Path) -> None:
    trt = _Trt()
    engine = _loaded(tmp_path, trt)
    context: Any = engine.context({"images": [2, 3, 64, 64]})
    assert trt.strategy == USER_MANAGED
    assert context.shapes == {"images": (2, 3, 64, 64)}
    assert engine.scratch_bytes(context) == 1024
    context.scratch = 0
    assert engine.scratch_bytes(context) == 4096


def test_a_context_of_tensorrt_for_rtx(tmp_path: Path) -> None:
    """Its strategy is in its configuration; a cache that it refuses is not why a later call fails."""
    trt = _Trt()
    (tmp_path / "model.engine.jit").write_bytes(b"of another GPU")
    engine = _loaded(tmp_path, trt, family="tensorrt-rtx")
    engine.context({"images": (4, 3, 64, 64)})
    assert trt.strategy is trt.config
    assert trt.config.strategy == USER_MANAGED
    assert engine.failure().endswith("model.engine: it does not say why")


def test_a_shape_that_is_refused(tmp_path: Path) -> None:
    engine = _loaded(tmp_path, _Trt())
    with pytest.raises(BackendError) as caught:
        engine.context({"images": (5, 3, 64, 64)})
    said = str(caught.value)
    assert said.startswith("tensorrt 1.2.3 does not take images of shape (5, 3, 64, 64) for ")
    assert "setInputShape: Error Code 3: not in the profile; " in said
    assert "\n" not in said
    assert "not in the profile" in engine.failure()


def test_no_memory_for_a_context(tmp_path: Path) -> None:
    trt = _Trt()
    engine = _loaded(tmp_path, trt)
    trt.sound = False
    with pytest.raises(BackendError, match=r"cannot make a context for .*use fewer streams or workers"):
        engine.context({})


def test_an_address_that_is_refused(tmp_path: Path) -> None:
    engine = _loaded(tmp_path, _Trt())
    context: Any = engine.context({})
    engine.bind(context, "images", 512)
    assert context.addresses == {"images": 512}
    with pytest.raises(BackendError, match="does not take address 0x201 for images of"):
        engine.bind(context, "images", 513)


def test_what_may_be_captured(tmp_path: Path) -> None:
    trt = _Trt()
    engine = _loaded(tmp_path, trt)
    assert engine.is_capturable(engine.context({}), 3)
    trt.kind = _Capturable
    context = engine.context({})
    assert engine.is_capturable(context, 7)
    assert not engine.is_capturable(context, 3)
