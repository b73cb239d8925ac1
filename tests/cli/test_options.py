"""`load`'s options of a GPU: what makes no sense is refused before anything starts; what does reaches each worker."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import trt_yolo
from tests.engine.plans import gpu
from trt_yolo.artifacts.manifest import METADATA_KEY, manifest_from_json
from trt_yolo.backends import onnxruntime_providers as providers
from trt_yolo.errors import InputError, MissingDependencyError
from trt_yolo.loader import GpuOptions, backend_spec
from trt_yolo.runtime.worker import BackendSpec


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
    options = GpuOptions(devices=(0, 1), streams=3, spin=True, provider=provider)
    spec = backend_spec(demo_onnx, "onnxruntime", options)
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
    spec = backend_spec(demo_onnx, "auto", GpuOptions(devices=(2,), graphs=False))
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
    spec = backend_spec(tmp_path / "cpu.onnx")
    assert spec.factory == "trt_yolo.backends.onnxruntime:OnnxRuntimeBackend"
    assert "runs on the CPU: its INT8 is laid out for one" in caplog.text
    on_gpu = backend_spec(tmp_path / "cpu.onnx", gpu=GpuOptions(provider="cuda"))  # what was asked for
    assert on_gpu.options["provider"] == "cuda"


@pytest.mark.parametrize(("gpus", "level"), [(0, "INFO"), (1, "WARNING")])
def test_the_cpu_is_said_to_be_one(
    gpus: int, level: str, demo_onnx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(providers, "devices", lambda: [gpu()] * gpus)
    monkeypatch.setattr("trt_yolo.loader.gpus_that_answer", lambda: [gpu()] * gpus)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with caplog.at_level("INFO"):
        spec = backend_spec(demo_onnx)
        assert spec.takes_threads
        backend_spec(demo_onnx, gpu=GpuOptions(provider="cpu"))  # asked for: nothing to say
    (record,) = [one for one in caplog.records if "runs on the CPU" in one.getMessage()]
    assert record.levelname == level


def test_workers_go_round_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.loader.loadable_engine", lambda model, *, rebuild: Path(model))
    options = GpuOptions(devices=(0, 2), streams=3, graphs=False, spin=True)
    spec = backend_spec("x.engine", "auto", options, rebuild=False)
    assert [spec.of_worker(number).options["device"] for number in range(4)] == [0, 2, 0, 2]
    wanted = {"engine": "x.engine", "streams": 3, "graphs": False, "spin": True, "device": 2}
    assert spec.of_worker(1).options == wanted
    assert spec.of_worker(1).devices == ()


def test_a_backend_without_devices_is_the_same_for_all() -> None:
    spec = BackendSpec(factory="a:b", options={"model": "x"})
    assert spec.of_worker(3) is spec
