"""The measurement: short ones, whose figures must fit together."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import trt_yolo
from trt_yolo import Model
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.bench.measure import BenchResult, bench_model, steady_stream, write_scenes
from trt_yolo.errors import ImageError, InputError
from trt_yolo.media.images import read_image

WINDOWS = 5


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_scenes(tmp_path_factory.mktemp("scenes"), (256, 256))


@pytest.fixture(scope="module")
def dynamic(demo_dynamic_onnx: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(demo_dynamic_onnx)


@pytest.fixture(scope="module")
def model(demo_dynamic_onnx: Path) -> Iterator[Model]:
    with trt_yolo.load(demo_dynamic_onnx, max_batch=2) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def progress() -> list[float]:
    return []


@pytest.fixture(scope="module")
def result(
    model: Model, dynamic: OnnxRuntimeBackend, paths: list[Path], progress: list[float]
) -> BenchResult:
    return bench_model(model, dynamic, paths, batch=2, seconds=0.9, progress=progress.append)


def test_the_figures_fit_together(result: BenchResult) -> None:
    assert result.efficiency == pytest.approx(result.images_per_s / result.bare_images_per_s)
    assert (result.batch, result.workers) == (2, 1)
    assert result.calls >= WINDOWS
    assert result.images >= WINDOWS
    latency, stages = result.latency_ms, result.stages_ms
    assert 0 < latency.p50 <= latency.p90 <= latency.p99
    assert min(stages.decode, stages.letterbox, stages.queue, stages.infer, stages.post) > 0
    per_image_ms = 1e3 / result.images_per_s
    assert 0.3 * per_image_ms < stages.infer < 5 * result.batch * per_image_ms


def test_a_stream_that_runs_evenly_leaves_nothing_under_way(model: Model, paths: list[Path]) -> None:
    steady = steady_stream(model, itertools.cycle(paths), 0.2)
    assert steady.images == len(steady.stages) >= 1
    assert 0 < steady.seconds < 5
    assert model.stats().waiting == 0


def test_workers_are_counted(demo_onnx: Path, paths: list[Path]) -> None:
    with trt_yolo.load(demo_onnx, workers=2, threads=1) as two:
        result = bench_model(two, OnnxRuntimeBackend(demo_onnx, threads=1), paths, batch=1, seconds=0.9)
    assert result.workers == 2
    assert result.efficiency == pytest.approx(result.images_per_s / result.bare_images_per_s / 2)


def test_progress_rises_to_1(result: BenchResult, progress: list[float]) -> None:
    assert progress == pytest.approx([(window + 1) / WINDOWS for window in range(WINDOWS)])


def test_the_result_is_json_rounded(result: BenchResult) -> None:
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == [
        "images_per_s", "latency_ms", "stages_ms", "bare_images_per_s", "efficiency", "batch", "workers",
        "images", "calls"
    ]  # fmt: skip
    assert plain["calls"] == result.calls
    assert plain["images_per_s"] == round(result.images_per_s, 3)
    assert list(plain["latency_ms"]) == ["p50", "p90", "p99"]
    assert plain["stages_ms"]["infer"] == round(result.stages_ms.infer, 3)


def test_no_time_still_makes_one_call_a_window_and_few_files_go_round(
    demo_onnx: Path, paths: list[Path]
) -> None:
    with trt_yolo.load(demo_onnx) as one:
        result = bench_model(one, OnnxRuntimeBackend(demo_onnx), paths[:1], batch=1, seconds=1e-9)
    assert result.calls == WINDOWS
    assert math.isfinite(result.efficiency)


@pytest.mark.parametrize("batch", [-1, 0, 5])
def test_a_batch_that_the_model_does_not_take_is_refused(
    model: Model, dynamic: OnnxRuntimeBackend, paths: list[Path], batch: int
) -> None:
    with pytest.raises(InputError, match=f"a batch of {batch}, and this model takes 1:4"):
        bench_model(model, dynamic, paths, batch=batch, seconds=1)


def test_a_static_model_takes_its_own_batch_only(
    model: Model, demo_static4_onnx: Path, paths: list[Path]
) -> None:
    with pytest.raises(InputError, match="a batch of 1, and this model takes 4"):
        bench_model(model, OnnxRuntimeBackend(demo_static4_onnx), paths, batch=1, seconds=1)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e9])
def test_no_time_to_measure_is_refused(
    model: Model, dynamic: OnnxRuntimeBackend, paths: list[Path], seconds: float
) -> None:
    with pytest.raises(InputError, match="is no time to measure"):
        bench_model(model, dynamic, paths, batch=1, seconds=seconds)


def test_no_image_is_refused(model: Model, dynamic: OnnxRuntimeBackend) -> None:
    with pytest.raises(InputError, match="no image to measure with"):
        bench_model(model, dynamic, [], batch=1, seconds=1)


def test_a_file_that_is_no_image_is_named(model: Model, dynamic: OnnxRuntimeBackend, tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("text")
    with pytest.raises(ImageError, match=r"text\.jpg is no image"):
        bench_model(model, dynamic, [path], batch=1, seconds=1)


def test_scenes_are_as_large_as_the_longer_side(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, (64, 96))
    assert len(paths) == 16
    assert {read_image(path).shape for path in paths} == {(96, 96, 3)}
    assert len({path.read_bytes() for path in paths}) == 16
