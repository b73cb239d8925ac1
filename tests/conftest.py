"""Fixtures: real weights, real images, real exports; everything written goes to temporary folders."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

Once = Callable[[str, Callable[[Path], object]], Path]


def pytest_configure(config: pytest.Config) -> None:
    """Ultralytics, the reference of some tests, stays offline and silent; Ctrl-C can be tested.

    A shell starts what runs in the background with SIGINT ignored, and every process below inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")


@pytest.fixture(scope="session", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the caches of the person who runs them."""
    os.environ["TRT_YOLO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["YOLO_CONFIG_DIR"] = str(tmp_path_factory.mktemp("ultralytics"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no test data: {SHARED} is missing")
    return SHARED


@pytest.fixture(scope="session")
def yolov8n(shared: Path) -> Path:
    """The checkpoint yolov8n.pt."""
    return shared / "weights" / "yolov8n.pt"


@pytest.fixture(scope="session")
def val_images(shared: Path) -> list[Path]:
    """64 COCO images."""
    return sorted((shared / "coco" / "images" / "val").glob("*.jpg"))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Once:
    """`once(name, make)`: this process's copy of a folder that `make` fills in one process of the run."""
    own = tmp_path_factory.getbasetemp()
    shared_by_all = own.parent if hasattr(request.config, "workerinput") else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        origin, part = shared_by_all / f"once-{name}", tmp_path_factory.mktemp("part")
        with FileLock(f"{origin}.lock"):
            if not origin.exists():
                make(part)
                part.rename(origin)
        return Path(shutil.copytree(origin, tmp_path_factory.mktemp(name), dirs_exist_ok=True))

    return made


@pytest.fixture(scope="session")
def demo_onnx(once: Once) -> Path:
    """The demo model's deploy graph, static batch 1, 256x256."""
    return _exported(once, "demo")


@pytest.fixture(scope="session")
def demo_dynamic_onnx(once: Once) -> Path:
    """The demo model's deploy graph, dynamic batch 1 to 4."""
    return _exported(once, "demo-1-4", batch="1:4")


@pytest.fixture(scope="session")
def demo_static4_onnx(once: Once) -> Path:
    """The demo model's deploy graph, static batch 4."""
    return _exported(once, "demo-4", batch="4")


@pytest.fixture(scope="session")
def demo_head_onnx(once: Once) -> Path:
    """The demo model's head graph."""
    return _exported(once, "demo-head", head=True)


@pytest.fixture(scope="session")
def yolov8n_onnx(yolov8n: Path, once: Once) -> Path:
    """yolov8n's deploy graph, static batch 1, 640x640."""
    return _exported(once, "yolov8n", source=yolov8n)


@pytest.fixture(scope="session")
def ultralytics_demo_onnx(once: Once) -> Path:
    """The demo model's head graph as Ultralytics exports it with dynamic=True."""
    pytest.importorskip("ultralytics")
    from trt_yolo.artifacts.shapes import BatchRange
    from trt_yolo.artifacts.weights import demo_checkpoint
    from trt_yolo.graph.from_ultralytics import onnx_from_ultralytics

    def make(folder: Path) -> None:
        onnx_from_ultralytics(
            demo_checkpoint(),
            folder / "demo.onnx",
            imgsz_hw=(256, 256),
            batch=BatchRange(1, 4),
            opset=19,
            verbose=False,
        )

    return once("ultralytics", make) / "demo.onnx"


@pytest.fixture(scope="session")
def fake_cuda(once: Once) -> Path:
    """The folder of the stand-in for NVIDIA's driver, with the kernel of the GPU tests."""
    pytest.importorskip("cuda.bindings.driver")
    from tests.fake_cuda import built
    from tests.gpu.kernel_backend import SOURCE

    return once("cuda", lambda folder: built(folder, SOURCE))


def _exported(
    once: Once, name: str, *, source: Path | None = None, batch: str = "1", head: bool = False
) -> Path:
    from trt_yolo.artifacts.shapes import parse_batch
    from trt_yolo.artifacts.weights import demo_checkpoint
    from trt_yolo.export.onnx_from_model import export_model
    from trt_yolo.export.options import ExportOptions

    options = ExportOptions(batch=parse_batch(batch), head=head)
    folder = once(name, lambda out: export_model(source or demo_checkpoint(), out=out, options=options))
    (path,) = folder.glob("*.onnx")
    return path
