"""The measurement: short ones, whose figures must fit together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.bench.measure import BenchResult, bench_backend, write_scenes
from trt_yolo.errors import ImageError, InputError
from trt_yolo.media.images import read_image

WINDOWS = 10


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_scenes(tmp_path_factory.mktemp("scenes"), (256, 256))


@pytest.fixture(scope="module")
def dynamic(demo_dynamic_onnx: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(demo_dynamic_onnx)


@pytest.fixture(scope="module")
def progress() -> list[float]:
    return []


@pytest.fixture(scope="module")
def result(dynamic: OnnxRuntimeBackend, paths: list[Path], progress: list[float]) -> BenchResult:
    return bench_backend(dynamic, paths, batch=2, seconds=0.6, progress=progress.append)


def test_the_figures_fit_together(result: BenchResult) -> None:
    assert result.efficiency == pytest.approx(result.images_per_s / result.bare_images_per_s)
    assert result.batch == 2
    assert result.calls >= WINDOWS
    latency, stages = result.latency_ms, result.stages_ms
    assert 0 < latency.p50 <= latency.p90 <= latency.p99
    mean_call_ms = result.batch / result.images_per_s * 1e3
    in_stages_ms = result.batch * (stages.decode + stages.letterbox + stages.infer + stages.post)
    assert min(stages.decode, stages.letterbox, stages.infer, stages.post) > 0
    assert 0.5 * mean_call_ms < in_stages_ms <= mean_call_ms


def test_the_calls_fill_their_half_of_the_time(result: BenchResult) -> None:
    measured_s = result.calls * result.batch / result.images_per_s
    assert measured_s >= 0.3 - 1e-3


def test_progress_rises_to_1(result: BenchResult, progress: list[float]) -> None:
    assert progress == pytest.approx([(window + 1) / WINDOWS for window in range(WINDOWS)])


def test_the_result_is_json_rounded(result: BenchResult) -> None:
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == [
        "images_per_s", "latency_ms", "stages_ms", "bare_images_per_s", "efficiency", "batch", "calls"
    ]  # fmt: skip
    assert plain["calls"] == result.calls
    assert plain["images_per_s"] == round(result.images_per_s, 3)
    assert list(plain["latency_ms"]) == ["p50", "p90", "p99"]
    assert plain["stages_ms"]["infer"] == round(result.stages_ms.infer, 3)


def test_no_time_still_makes_one_call_a_window_and_few_files_go_round(
    demo_onnx: Path, paths: list[Path]
) -> None:
    result = bench_backend(OnnxRuntimeBackend(demo_onnx), paths[:1], batch=1, seconds=1e-9)
    assert result.calls == WINDOWS
    assert math.isfinite(result.efficiency)


@pytest.mark.parametrize("batch", [-1, 0, 5])
def test_a_batch_that_the_model_does_not_take_is_refused(
    dynamic: OnnxRuntimeBackend, paths: list[Path], batch: int
) -> None:
    with pytest.raises(InputError, match=f"a batch of {batch}, and this model takes 1:4"):
        bench_backend(dynamic, paths, batch=batch, seconds=1)


def test_a_static_model_takes_its_own_batch_only(demo_static4_onnx: Path, paths: list[Path]) -> None:
    with pytest.raises(InputError, match="a batch of 1, and this model takes 4"):
        bench_backend(OnnxRuntimeBackend(demo_static4_onnx), paths, batch=1, seconds=1)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e9])
def test_no_time_to_measure_is_refused(
    dynamic: OnnxRuntimeBackend, paths: list[Path], seconds: float
) -> None:
    with pytest.raises(InputError, match="is no time to measure"):
        bench_backend(dynamic, paths, batch=1, seconds=seconds)


def test_no_image_is_refused(dynamic: OnnxRuntimeBackend) -> None:
    with pytest.raises(InputError, match="no image to measure with"):
        bench_backend(dynamic, [], batch=1, seconds=1)


def test_a_file_that_is_no_image_is_named(dynamic: OnnxRuntimeBackend, tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("text")
    with pytest.raises(ImageError, match=r"text\.jpg is no image"):
        bench_backend(dynamic, [path], batch=1, seconds=1)


def test_scenes_are_as_large_as_the_longer_side(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, (64, 96))
    assert len(paths) == 16
    assert {read_image(path).shape for path in paths} == {(96, 96, 3)}
    assert len({path.read_bytes() for path in paths}) == 16
