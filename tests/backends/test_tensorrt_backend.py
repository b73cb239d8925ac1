"""The TensorRT backend where no GPU is: it says why it does not load, with no traceback and nothing held."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.plans import facts_of, gpu, here, manifest_for, tensorrt_plan, write_pair
from trt_yolo.backends import tensorrt as backend
from trt_yolo.backends.tensorrt import TensorRTBackend
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.engine import compatibility
from trt_yolo.engine.plan import Family
from trt_yolo.errors import EngineError, MissingDependencyError, UnsupportedModelError


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)


@pytest.fixture(scope="module")
def engine(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's engine; nobody may change it."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    folder = tmp_path_factory.mktemp("engine")
    return engine_from_onnx(Path(shutil.copy(demo_onnx, folder)), check=False).path


def test_an_engine_that_does_not_load_here(engine: Path) -> None:
    for path in (engine, str(engine)):
        with pytest.raises(EngineError, match="does not load here: no NVIDIA GPU answers here"):
            TensorRTBackend(path)


@pytest.mark.parametrize(
    ("versions", "capability", "platform", "why"),
    [
        ({}, "8.9", "linux-x86_64", "here is neither TensorRT"),
        ({"tensorrt-rtx": "1.7.1.116"}, "8.9", "linux-x86_64", "here is tensorrt-rtx 1.7.1.116"),
        ({"tensorrt": "10.3.0.26"}, "8.9", "linux-x86_64", "tensorrt 10.13.0.35, and here is 10.3.0.26"),
        ({"tensorrt": "10.13.0.35"}, "8.6", "linux-x86_64", "built for compute capability 8.9"),
        ({"tensorrt": "10.13.0.35"}, "8.9", "linux-aarch64", "built for linux-x86_64"),
        ({"tensorrt": "10.13.0.35"}, None, "linux-x86_64", "no NVIDIA GPU answers here"),
    ],
    ids=["nothing", "another builder", "another version", "another GPU", "another system", "no GPU"],
)
def test_another_machine(
    versions: dict[Family, str],
    capability: str | None,
    platform: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Machines that are made up: TensorRT is not asked, nor imported."""
    write_pair(tmp_path / "model.engine", tensorrt_plan())
    monkeypatch.setattr(compatibility, "this_machine", lambda: here(versions, capability, platform))
    monkeypatch.setattr(backend, "Library", None)
    with pytest.raises(EngineError, match=why):
        TensorRTBackend(tmp_path / "model.engine")


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    with pytest.raises(EngineError, match="no such file"):
        TensorRTBackend(path)
    plan = tensorrt_plan()
    write_pair(path, plan)
    path.write_bytes(plan[:-1])
    with pytest.raises(EngineError, match="damaged or was replaced"):
        TensorRTBackend(path)
    path.with_name("model.engine.json").write_text("[]")
    with pytest.raises(UnsupportedModelError, match="damaged manifest"):
        TensorRTBackend(path)


def test_without_a_cuda_binding(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where it would load."""
    monkeypatch.setattr(compatibility, "devices", lambda: [gpu()])
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(
        MissingDependencyError, match=r"needs a CUDA binding: .*pip install 'trt-yolo\[gpu\]'"
    ):
        TensorRTBackend(engine)


def test_without_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are there and it does not import, as with half an installation."""
    write_pair(tmp_path / "model.engine", tensorrt_plan())
    monkeypatch.setattr(compatibility, "this_machine", lambda: here({"tensorrt": "10.13.0.35"}))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", None)
    with pytest.raises(
        MissingDependencyError, match=r"tensorrt does not import .*pip install 'trt-yolo\[gpu\]'"
    ):
        TensorRTBackend(tmp_path / "model.engine")


@pytest.mark.parametrize(
    "error", ["ImportError('libcuda.so.1')", "OSError('libcurand.so')", "RuntimeError('x')"]
)
def test_a_broken_pycuda_is_no_traceback(
    error: str, engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(compatibility, "devices", lambda: [gpu()])
    monkeypatch.setenv("TRT_YOLO_CUDA", "pycuda")
    try:
        with pytest.raises(MissingDependencyError, match="pycuda does not import"):
            TensorRTBackend(engine)
    finally:
        sys.modules.pop("pycuda", None)


def test_no_options_of_a_manifest_are_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest's options reach the runtime: none that trt-yolo does not write."""
    plan = tensorrt_plan()
    assert facts_of(plan, options={"timing_cache": "/etc/passwd"}).options
    write_pair(tmp_path / "model.engine", plan, manifest_for(plan, options={"timing_cache": "/etc/passwd"}))
    with pytest.raises(EngineError, match="does not load here"):
        TensorRTBackend(tmp_path / "model.engine")


def test_one_that_was_never_loaded_can_be_closed() -> None:
    TensorRTBackend.__new__(TensorRTBackend).close()


def test_importing_it_loads_neither_tensorrt_nor_cuda() -> None:
    script = (
        "import sys, trt_yolo.backends.tensorrt\n"
        "print(sorted({'tensorrt', 'tensorrt_rtx', 'pycuda', 'cuda', 'torch', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
