"""Two models side by side: who is faster, by how much, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.bench.comparison import compare_models
from trt_yolo.bench.measure import write_scenes
from trt_yolo.errors import InputError
from trt_yolo.export.exporting import ExportOptions, export_model
from trt_yolo.export.weights import demo_checkpoint


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The demo model at an eighth of its pixels in each direction."""
    options = ExportOptions(imgsz_hw=(32, 32), check=False)
    return export_model(demo_checkpoint(), out=tmp_path, options=options).artifacts[0].path


def test_the_smaller_model_is_faster(demo_onnx: Path, small: Path, tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, (64, 64))
    shares: list[float] = []
    with OnnxRuntimeBackend(small, threads=1) as one, OnnxRuntimeBackend(demo_onnx, threads=1) as other:
        found = compare_models(one, other, paths, batch=1, seconds=1.0, progress=shares.append)
        turned = compare_models(other, one, paths, batch=1, seconds=1.0)
    assert found.ratio > 3
    assert turned.ratio < 1 / 3
    assert found.images_per_s > found.other_images_per_s > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_batch_that_one_does_not_take(demo_onnx: Path, demo_dynamic_onnx: Path, tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, (64, 64))
    with (
        OnnxRuntimeBackend(demo_dynamic_onnx) as one,
        OnnxRuntimeBackend(demo_onnx) as other,
        pytest.raises(InputError, match="batch"),
    ):
        compare_models(one, other, paths, batch=2, seconds=1.0)
