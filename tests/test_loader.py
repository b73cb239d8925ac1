"""`load` with an engine: refused at once in the process that asks, before any worker starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import trt_yolo
from tests.engine.plans import gpu, tensorrt_plan
from tests.runtime.models import children
from trt_yolo import loader
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.demo.scenes import scene
from trt_yolo.engine import compatibility
from trt_yolo.errors import EngineError, InputError
from trt_yolo.loader import is_engine, load, load_backend

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture(scope="module")
def engine(demo_dynamic_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's engine for batches of 1 to 4; nobody may change it."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    folder = tmp_path_factory.mktemp("engine")
    return engine_from_onnx(Path(shutil.copy(demo_dynamic_onnx, folder)), check=False).path


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("as_text", [False, True])
def test_one_that_does_not_load_here(
    as_text: bool, workers: int, rebuild: bool, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    monkeypatch.setattr(loader, "Pool", None)  # nothing of it is made
    with pytest.raises(EngineError, match="does not load here: no NVIDIA GPU answers here") as caught:
        load(str(engine) if as_text else engine, workers=workers, rebuild=rebuild)
    assert str(engine) in str(caught.value)
    assert children() == before


def test_garbage(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    for content in (b"", b"garbage" * 99, b"vtrt", b"\xff\xff\xff\x7f{}" + bytes(99)):
        path.write_bytes(content)
        with pytest.raises(EngineError, match=r"model\.engine"):
            load(path, workers=2)


@pytest.mark.parametrize("suffix", [".engine", ".plan", ".ENGINE", ".Plan"])
def test_what_is_an_engine(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(tensorrt_plan())
    assert is_engine(path)
    assert is_engine(str(path))
    with pytest.raises(EngineError, match="does not load here"):
        load(path)


@pytest.mark.parametrize("name", ["model.onnx", "engine", "model.engine.onnx", "yolov8n", ".engine"])
def test_what_is_none(name: str) -> None:
    assert not is_engine(name)


def test_onnx_runtime_does_not_run_it(engine: Path) -> None:
    with pytest.raises(
        InputError, match=r"TensorRT engine, which ONNX Runtime does not run; give the \.onnx"
    ):
        load(engine, backend="onnxruntime")


def test_the_bare_backend_is_refused_alike(engine: Path) -> None:
    with pytest.raises(EngineError, match="does not load here: no NVIDIA GPU answers here"):
        load_backend(engine)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_null_backend_stands_for_it(workers: int, engine: Path) -> None:
    """Its manifest is enough for what the rest of a pipeline costs, on any machine."""
    image = scene(0).image_bgr
    with load(engine, backend="null", workers=workers) as model:
        assert len(model.names) == 10
        found = model([image] * 5)
    assert [len(one) for one in found] == [1] * 5
    np.testing.assert_allclose(found[0].xyxy, [[0, 0, image.shape[1], image.shape[0]]], atol=1)


def test_the_null_backend_needs_a_manifest(engine: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(engine, tmp_path))
    with pytest.raises(InputError, match=r"has no manifest, .*; give the \.onnx"):
        load(alone, backend="null")


def test_the_null_backend_does_not_take_a_damaged_engine(engine: Path, tmp_path: Path) -> None:
    for one in engine.parent.glob(f"{engine.name}*"):
        shutil.copy(one, tmp_path)
    damaged = tmp_path / engine.name
    damaged.write_bytes(engine.read_bytes()[:-9])
    with pytest.raises(EngineError, match="damaged or was replaced"):
        load(damaged, backend="null")


def test_numbers_outside_their_range_are_told_first(engine: Path) -> None:
    with pytest.raises(InputError, match="workers is -1"):
        load(engine, workers=-1)
    with pytest.raises(InputError, match="no backend 'tensorrt'"):
        load(engine, backend="tensorrt")  # type: ignore[arg-type]


def test_a_worker_that_cannot_load_it_says_why(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a GPU is made up in this process alone: the worker looks for itself, and finds none."""
    monkeypatch.setattr(compatibility, "devices", lambda: [gpu("8.9")])
    before = children()
    with pytest.raises(EngineError, match="does not load here: no NVIDIA GPU answers here"):
        load(engine, workers=1)
    assert children() == before


def test_it_is_a_public_name() -> None:
    assert trt_yolo.load is load
