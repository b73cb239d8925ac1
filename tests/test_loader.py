"""`load`: what makes no sense is refused at once, before any worker starts; options reach each worker."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_yolo
from tests.engine.plans import gpu, tensorrt_plan
from tests.runtime.models import children
from trt_yolo import loader
from trt_yolo.artifacts.manifest import METADATA_KEY, manifest_from_json
from trt_yolo.backends import onnxruntime_providers as providers
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.demo.scenes import scene
from trt_yolo.engine import compatibility
from trt_yolo.errors import EngineError, InputError, MissingDependencyError
from trt_yolo.loader import backend_spec, is_engine, load, load_backend
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.worker import BackendSpec

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


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"streams": 0}, "streams is 0"),
        ({"streams": 17, "slots": 64}, "streams is 17"),
        ({"streams": 4}, "streams is 4 and slots 4; give at least 5 slots"),
        ({"devices": []}, r"devices is \[\]"),
        ({"devices": [-1]}, r"devices is \[-1\]"),
        ({"devices": ["a"]}, r"devices is \['a'\]"),
        ({"devices": [0, 1]}, "2 devices need worker processes"),
    ],
    ids=str,
)
def test_what_makes_no_sense(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        trt_yolo.load("x.engine", **options)


@pytest.mark.parametrize("options", [{"streams": 2}, {"devices": [1]}, {"graphs": False}], ids=str)
@pytest.mark.parametrize(
    ("provider", "why"), [("auto", "no NVIDIA GPU answers"), ("cpu", "the provider cpu was asked for")]
)
def test_what_is_for_gpus_alone(
    options: dict[str, Any], provider: Any, why: str, demo_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "devices", list)
    with pytest.raises(InputError, match=rf"are for a GPU, and .*demo.onnx would run on the CPU: {why}"):
        trt_yolo.load(demo_onnx, provider=provider, **options)


def test_engines_have_no_provider() -> None:
    with pytest.raises(InputError, match=r"provider cuda is for an \.onnx, and x\.engine is an engine"):
        trt_yolo.load("x.engine", provider="cuda")


def test_providers_that_cannot_be_had(demo_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown: Any = "rocm"
    with pytest.raises(InputError, match="no provider 'rocm'"):
        trt_yolo.load(demo_onnx, provider=unknown)
    monkeypatch.setattr(providers, "devices", list)
    with pytest.raises(MissingDependencyError, match="cuda cannot be used here: no NVIDIA GPU answers"):
        trt_yolo.load(demo_onnx, provider="cuda")


def _on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "devices", lambda: [gpu()])
    monkeypatch.setattr("trt_yolo.loader.gpus_that_answer", lambda: [gpu()])
    monkeypatch.setattr(providers, "unusable", lambda provider: "")


@pytest.mark.parametrize("provider", ["auto", "cuda", "tensorrt"])
def test_an_onnx_goes_to_the_gpu_that_answers(
    provider: Any, demo_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _on_a_gpu(monkeypatch)
    options = RuntimeOptions(workers=1, devices=(0, 1), streams=3, spin=True, provider=provider)
    spec = backend_spec(demo_onnx, options, backend="onnxruntime")
    assert spec.factory == "trt_yolo.backends.onnxruntime_gpu:OnnxRuntimeGpuBackend"
    told = spec.of_worker(1).options
    assert told.pop("cache").endswith("onnxruntime")
    wanted = {"model": str(demo_onnx), "provider": "cuda" if provider == "auto" else provider, "device": 1}
    assert told == wanted | {"streams": 3, "graphs": True, "spin": True}
    assert not spec.takes_threads


def test_the_options_reach_the_backend(demo_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are its keyword arguments."""
    _on_a_gpu(monkeypatch)
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "trt_yolo.backends.onnxruntime_gpu.GpuBackend.__init__", lambda self, **options: given.update(options)
    )
    spec = backend_spec(demo_onnx, RuntimeOptions(devices=(2,), graphs=False))
    spec.of_worker(0).build(threads=1)
    assert given == {"device": 2, "streams": 2, "graphs": False, "spin": False}


def test_int8_for_a_cpu_stays_there(
    demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnx

    model = onnx.load(demo_onnx)
    (entry,) = [one for one in model.metadata_props if one.key == METADATA_KEY]
    manifest = manifest_from_json(entry.value, origin="demo")
    entry.value = dataclasses.replace(manifest, precision="int8", target="cpu").to_json()
    onnx.save(model, tmp_path / "cpu.onnx")
    _on_a_gpu(monkeypatch)
    spec = backend_spec(tmp_path / "cpu.onnx", RuntimeOptions())
    assert spec.factory == "trt_yolo.backends.onnxruntime:OnnxRuntimeBackend"
    assert "runs on the CPU: its INT8 is laid out for one" in caplog.text
    on_gpu = backend_spec(tmp_path / "cpu.onnx", RuntimeOptions(provider="cuda"))  # what was asked for
    assert on_gpu.options["provider"] == "cuda"


@pytest.mark.parametrize(("gpus", "level"), [(0, "INFO"), (1, "WARNING")])
def test_the_cpu_is_said_to_be_one(
    gpus: int, level: str, demo_onnx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(providers, "devices", lambda: [gpu()] * gpus)
    monkeypatch.setattr("trt_yolo.loader.gpus_that_answer", lambda: [gpu()] * gpus)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with caplog.at_level("INFO"):
        spec = backend_spec(demo_onnx, RuntimeOptions())
        assert spec.takes_threads
        backend_spec(demo_onnx, RuntimeOptions(provider="cpu"))  # asked for: nothing to say
    (record,) = [one for one in caplog.records if "runs on the CPU" in one.getMessage()]
    assert record.levelname == level


def test_workers_go_round_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.loader.loadable_engine", lambda model, *, rebuild: Path(model))
    options = RuntimeOptions(workers=2, devices=(0, 2), streams=3, graphs=False, spin=True)
    spec = backend_spec("x.engine", options)
    assert [spec.of_worker(number).options["device"] for number in range(4)] == [0, 2, 0, 2]
    wanted = {"engine": "x.engine", "streams": 3, "graphs": False, "spin": True, "device": 2}
    assert spec.of_worker(1).options == wanted
    assert spec.of_worker(1).devices == ()


def test_a_backend_without_devices_is_the_same_for_all() -> None:
    spec = BackendSpec(factory="a:b", options={"model": "x"})
    assert spec.of_worker(3) is spec
