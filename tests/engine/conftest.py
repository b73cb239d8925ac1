"""Engines of the demo model, built once by TensorRT for RTX."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trt_yolo.build.engine_from_onnx import EngineReport, engine_from_onnx


def copied(onnx: Path, folder: Path, name: str = "model.onnx") -> Path:
    """A graph of the test's own, with its manifest beside it."""
    shutil.copy(onnx, folder / name)
    return folder / name


@pytest.fixture
def graph(demo_onnx: Path, tmp_path: Path) -> Path:
    """The demo model's deploy graph, in a folder of the test's own."""
    return copied(demo_onnx, tmp_path)


@pytest.fixture(scope="session")
def built(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineReport:
    """The demo model's engine; nobody may change it."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    return engine_from_onnx(copied(demo_onnx, tmp_path_factory.mktemp("built")))


@pytest.fixture
def engine(built: EngineReport, tmp_path: Path) -> Path:
    """A copy of the demo model's engine, with its manifest and its ONNX, that a test may harm."""
    for one in built.path.parent.iterdir():
        shutil.copy(one, tmp_path / one.name)
    return tmp_path / built.path.name
