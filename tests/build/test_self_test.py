"""The self-test takes what computes the same, and notices every way in which an engine may be wrong.

No GPU is played here: the engines are ONNX Runtime with rows that are spoiled on purpose.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.engine.plans import gpu, left_in
from tests.precision import graphs
from trt_yolo.artifacts.manifest import METADATA_KEY, Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import Backend, Frames, Output, Rows
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.build.engine_from_onnx import EngineReport, engine_from_onnx
from trt_yolo.build.self_test import SelfTest, check_engine, self_test
from trt_yolo.engine import compatibility
from trt_yolo.engine.library import installed_version
from trt_yolo.engine.plan import failed_log_path, log_path, manifest_path
from trt_yolo.errors import ExportError
from trt_yolo.evaluation.parity import check_frames
from trt_yolo.graph.deploy_from_head import deploy_from_head
from trt_yolo.hardware.gpus import platform_name
from trt_yolo.precision.fp16_from_float import fp16_from_float
from trt_yolo.precision.int8_from_float import int8_from_float

pytest.importorskip("onnxruntime")

Spoil = Callable[[Rows], Any]
"""Changes the rows of a batch where they are, or returns others."""


class _Remembering(OnnxRuntimeBackend):
    """ONNX Runtime that computes a batch once, however many tests ask for it."""

    def __init__(self, model: Path) -> None:
        super().__init__(model)
        self._known: dict[tuple[bytes, float, float], Output] = {}

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        key = (frames_bgr.tobytes(), conf, iou)
        if key not in self._known:
            self._known[key] = super()._run(frames_bgr, conf, iou)
        return Output(*(one.copy() for one in self._known[key]))


@cache
def _onnx_runtime(model: Path) -> OnnxRuntimeBackend:
    """A session for all tests of a graph."""
    return _Remembering(model)


class _Spoiled(Backend):
    """ONNX Runtime whose rows something happens to.

    Attributes:
        batches: The sizes that it was called with.
    """

    def __init__(self, model: Path, spoil: Spoil | None = None, *, precision: str | None = None) -> None:
        self._inner = _onnx_runtime(model)
        manifest = self._inner.manifest
        super().__init__(dataclasses.replace(manifest, precision=precision or manifest.precision))
        self.batches: list[int] = []
        self._spoil = spoil

    def infer(self, frames_bgr: Frames, *, conf: float, iou: float) -> Rows:
        self.batches.append(len(frames_bgr))
        return super().infer(frames_bgr, conf=conf, iou=iou)

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        output = self._inner._run(frames_bgr, conf, iou)
        rows = output.detections.copy()
        spoiled = None if self._spoil is None else self._spoil(rows)
        return Output(rows if spoiled is None else spoiled, output.unconverged)


def _tested(engine: Backend, onnx_path: Path) -> SelfTest:
    return self_test(engine, _onnx_runtime(onnx_path))


# What computes the same


@pytest.fixture(scope="module")
def int8_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's deploy graph in int8 as TensorRT takes it."""
    network = graphs.demo_network()
    head = fp16_from_float(int8_from_float(network, graphs.demo_calibration("tensorrt", "minmax")), network)
    manifest = Manifest(
        graph="deploy", names={index: str(index) for index in range(10)}, imgsz_hw=(256, 256),
        batch=BatchRange(1, 1), rows=128, anchors=1344, precision="int8", target="tensorrt",
    )  # fmt: skip
    model = deploy_from_head(head, manifest)
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    path = tmp_path_factory.mktemp("int8") / "demo-int8.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("fixture", "batches"),
    [
        ("demo_onnx", (1,)),
        ("demo_dynamic_onnx", (1, 2, 4)),
        ("demo_head_onnx", (1,)),
        ("int8_onnx", (1,)),
    ],
)
def test_the_same_backend(fixture: str, batches: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    engine = _Spoiled(path)
    found = _tested(engine, path)
    assert (found.batches, found.unmatched, found.worst_score) == (batches, 0, 0.0)
    assert found.detections >= 20
    assert set(batches) <= set(engine.batches)


def test_a_static_batch_is_run_full(demo_static4_onnx: Path) -> None:
    engine = _Spoiled(demo_static4_onnx)
    found = _tested(engine, demo_static4_onnx)
    assert (found.unmatched, found.batches[-1]) == (0, 4)
    assert 4 in engine.batches


def test_a_head_graph_against_its_deploy_graph(demo_head_onnx: Path, demo_onnx: Path) -> None:
    found = _tested(_Spoiled(demo_head_onnx), demo_onnx)
    assert found.unmatched <= 2
    assert found.worst_score < 1e-3


def test_int8_is_allowed_more_than_float(int8_onnx: Path, demo_onnx: Path) -> None:
    """Int8 against its own float model: what the network loses is not what an engine may lose."""
    found = _tested(_Spoiled(int8_onnx), demo_onnx)
    assert found.worst_score < 0.15
    with pytest.raises(ExportError):
        _tested(_Spoiled(int8_onnx, precision="fp32"), demo_onnx)


@pytest.mark.parametrize(
    ("factor", "precision", "taken"),
    [
        (0.99, "fp32", True),
        (0.9, "fp32", False),
        (0.975, "fp32", False),
        (0.975, "fp16", True),
        (0.9, "fp16", False),
        (0.9, "int8", True),
        (0.8, "int8", False),
    ],
)
def test_scores_may_differ_by_what_the_precision_explains(
    factor: float, precision: str, taken: bool, demo_onnx: Path
) -> None:
    def spoil(rows: Rows) -> None:
        rows[..., 4] *= factor

    engine = _Spoiled(demo_onnx, spoil, precision=precision)
    if taken:
        found = _tested(engine, demo_onnx)
        assert found.worst_score == pytest.approx(1 - factor, abs=0.3 * (1 - factor))
        return
    with pytest.raises(ExportError, match=r"scores by 0\.\d+ \(allowed 0\.\d+\)"):
        _tested(engine, demo_onnx)


def _answers_to(scene: int, model: Path, rows: Rows) -> list[Rows]:
    """The rows that answer for that scene, whatever batch it is in."""
    frame = check_frames((256, 256), ())[scene]
    best = _onnx_runtime(model).infer(frame[None], conf=0.25, iou=0.7)[0, 0]
    return [one for one in rows if np.abs(one[0] - best).max() < 1e-2]


def test_one_near_tie_is_allowed(demo_onnx: Path) -> None:
    """NMS may keep another of two boxes that are as good."""

    def spoil(rows: Rows) -> None:
        for one in _answers_to(0, demo_onnx, rows):
            one[np.count_nonzero(one[:, 4]) - 1] = 0  # the last that is there

    assert _tested(_Spoiled(demo_onnx, spoil), demo_onnx).unmatched == 1


def test_a_model_that_finds_little_is_asked_with_a_lower_threshold(demo_onnx: Path) -> None:
    conf: list[float] = []

    class Unsure(_Spoiled):
        def _run(self, frames_bgr: Frames, asked: float, iou: float) -> Output:
            conf.append(asked)
            return super()._run(frames_bgr, asked, iou)

    def only_the_unsure(rows: Rows) -> None:
        rows[rows[..., 4] > 0.2] = 0

    with Unsure(demo_onnx, only_the_unsure) as reference, _Spoiled(demo_onnx, only_the_unsure) as engine:
        self_test(engine, reference)
    assert conf[0] == 0.25
    assert conf[-1] < 0.25


def test_a_model_that_finds_nothing_at_all(demo_onnx: Path) -> None:
    """Nothing to compare is no fault of the engine; one that finds something then has invented it."""

    def nothing(rows: Rows) -> None:
        rows[:] = 0

    with _Spoiled(demo_onnx, nothing) as reference:
        with _Spoiled(demo_onnx, nothing) as engine:
            assert self_test(engine, reference).detections == 0
        with _Spoiled(demo_onnx) as engine, pytest.raises(ExportError):
            self_test(engine, reference)


# What is wrong in some rows of a batch


def _row_1_empty(rows: Rows) -> None:
    rows[1:2] = 0


def _row_1_shifted(rows: Rows) -> None:
    rows[1:2, :, :4] += 0.5


def _row_1_scores(rows: Rows) -> None:
    rows[1:2, :, 4] *= 0.95


def _row_1_nan(rows: Rows) -> None:
    rows[1:2] = np.nan


def _last_row_classes(rows: Rows) -> None:
    if len(rows) > 1:
        rows[-1, :, 5] += 1


def _all_but_the_first(rows: Rows) -> None:
    rows[1:] = rows[1:, ::-1]


def _first_row_alone(rows: Rows) -> Rows:
    return np.repeat(rows[:1], len(rows), axis=0)


def _turned(rows: Rows) -> Rows:
    return rows[::-1].copy()


@pytest.mark.parametrize(
    ("spoil", "fixture"),
    [
        (_row_1_empty, "demo_dynamic_onnx"),
        (_row_1_empty, "demo_static4_onnx"),
        (_row_1_shifted, "demo_dynamic_onnx"),
        (_row_1_shifted, "demo_static4_onnx"),
        (_row_1_scores, "demo_dynamic_onnx"),
        (_row_1_nan, "demo_dynamic_onnx"),
        (_last_row_classes, "demo_dynamic_onnx"),
        (_all_but_the_first, "demo_dynamic_onnx"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_wrong_row_of_a_batch(spoil: Spoil, fixture: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(fixture)
    with pytest.raises(ExportError, match=r"row [1-3] of a batch of [24] equal images differs from row 0"):
        _tested(_Spoiled(path, spoil), path)


@pytest.mark.parametrize("spoil", [_first_row_alone, _turned])
def test_rows_that_answer_for_another_image(spoil: Spoil, demo_dynamic_onnx: Path) -> None:
    """A batch of equal images does not tell whose answer a row is: only different ones do."""
    with pytest.raises(ExportError):
        _tested(_Spoiled(demo_dynamic_onnx, spoil), demo_dynamic_onnx)


def test_a_row_that_is_wrong_in_the_largest_batch_alone(demo_dynamic_onnx: Path) -> None:
    def spoil(rows: Rows) -> None:
        rows[3:, :, 0] += 2

    with pytest.raises(ExportError, match="row 3 of a batch of 4"):
        _tested(_Spoiled(demo_dynamic_onnx, spoil), demo_dynamic_onnx)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_another_batch_may_be_summed_in_another_order(precision: str, demo_dynamic_onnx: Path) -> None:
    """TensorRT has other kernels for other shapes, RTX compiles them for each: FP16 then rounds otherwise, by
    less than it differs from ONNX Runtime, and of two detections with nearly one score the other comes first."""

    def spoil(rows: Rows) -> None:
        if len(rows) > 1:
            rows[..., :4] += 0.05
            rows[..., 4] *= 0.998
            rows[:, [1, 2]] = rows[:, [2, 1]]

    engine = _Spoiled(demo_dynamic_onnx, spoil, precision=precision)
    assert _tested(engine, demo_dynamic_onnx).unmatched == 0


# What is wrong everywhere


def _shifted(rows: Rows) -> None:
    rows[..., :4] += 8


def _axes_swapped(rows: Rows) -> Rows:
    return rows[..., [1, 0, 3, 2, 4, 5]]


def _half_as_large(rows: Rows) -> None:
    rows[..., :4] /= 2


def _centre_and_size(rows: Rows) -> None:
    size, centre = rows[..., 2:4] - rows[..., :2], (rows[..., 2:4] + rows[..., :2]) / 2
    rows[..., :2], rows[..., 2:4] = centre, size


def _other_classes(rows: Rows) -> None:
    rows[..., 5] = (rows[..., 5] + 1) % 10


def _nothing(rows: Rows) -> None:
    rows[:] = 0


def _every_other_missing(rows: Rows) -> None:
    rows[:, 1::2] = 0


def _twice(rows: Rows) -> Rows:
    return np.repeat(rows, 2, axis=1)


def _no_nms(rows: Rows) -> None:
    rows[:, 100:200] = rows[:, :1]


def _nan(rows: Rows) -> None:
    rows[:] = np.nan


def _nan_boxes(rows: Rows) -> None:
    rows[..., :4] = np.nan


def _nan_scores(rows: Rows) -> None:
    rows[..., 4] = np.nan


def _infinite_boxes(rows: Rows) -> None:
    rows[..., 2:4] = np.inf


def _infinite_scores(rows: Rows) -> None:
    rows[..., 4] = np.inf


@pytest.mark.parametrize(
    "spoil",
    [
        _shifted, _axes_swapped, _half_as_large, _centre_and_size, _other_classes, _nothing, _every_other_missing,
        _twice, _no_nms, _nan, _nan_boxes, _nan_scores, _infinite_boxes, _infinite_scores,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_an_engine_that_finds_something_else(spoil: Spoil, demo_onnx: Path) -> None:
    """With the tolerance of int8, the largest."""
    with pytest.raises(ExportError) as caught:
        _tested(_Spoiled(demo_onnx, spoil, precision="int8"), demo_onnx)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("column", "value"), [(4, np.nan), (4, np.inf), (4, 7.0), (0, np.nan)])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_one_number_that_is_none(column: int, value: float, demo_onnx: Path) -> None:
    """However few: no rounding gives NaN, nor a score above 1. The first image is not the one that shows it."""

    def spoil(rows: Rows) -> None:
        for one in _answers_to(1, demo_onnx, rows):
            one[0, column] = value

    with pytest.raises(ExportError):
        _tested(_Spoiled(demo_onnx, spoil), demo_onnx)


def test_the_line_says_how_many(demo_onnx: Path) -> None:
    with pytest.raises(ExportError, match=r"\d+ detections of \d+ have no partner \(allowed \d+\)"):
        _tested(_Spoiled(demo_onnx, _every_other_missing), demo_onnx)


def test_a_head_engine_that_finds_something_else(demo_head_onnx: Path) -> None:
    with pytest.raises(ExportError):
        _tested(_Spoiled(demo_head_onnx, _shifted), demo_head_onnx)


# In a build


def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)


def _made_up_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compatibility.Here(
        versions={"tensorrt-rtx": installed_version("tensorrt-rtx")}, gpus=[gpu()], platform=platform_name()
    )
    monkeypatch.setattr(compatibility, "this_machine", lambda: here)


def test_where_nothing_runs_it_it_is_not_tested(
    engine: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _no_gpu(monkeypatch)
    caplog.set_level("INFO")
    assert check_engine(engine, graph) is None
    (line,) = (one.getMessage() for one in caplog.records if "not tested" in one.getMessage())
    assert "no NVIDIA GPU answers here" in line


def test_without_a_cuda_binding_it_is_not_tested_and_that_is_a_warning(
    engine: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _made_up_gpu(monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert check_engine(engine, graph) is None
    (line,) = (one.getMessage() for one in caplog.records if one.levelname == "WARNING")
    assert "the engine was not tested: running on a GPU needs a CUDA binding" in line


def test_an_engine_that_fails_is_named_with_its_onnx(
    engine: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made_up_gpu(monkeypatch)
    monkeypatch.setattr(
        "trt_yolo.backends.tensorrt.TensorRTBackend", lambda _: _Spoiled(graph, _every_other_missing)
    )
    with pytest.raises(ExportError, match=r"fails its test: .* have no partner") as caught:
        check_engine(engine, graph)
    assert str(graph) in str(caught.value)
    assert "it was not kept" in str(caught.value)


@pytest.fixture
def failing(built: EngineReport, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every engine fails its test; what lay in the folder meanwhile."""
    seen: list[str] = []

    def check(engine: Path, onnx: Path) -> SelfTest:
        assert manifest_path(engine).is_file(), "the backend reads it"
        assert engine.read_bytes()[:4] == b"vtrt"
        seen.extend(left_in(engine.parent))
        raise ExportError(f"the engine built from {onnx} fails its test: row 1; it was not kept")

    monkeypatch.setattr("trt_yolo.build.engine_from_onnx.check_engine", check)
    return seen


def test_the_old_engine_stays_when_the_new_one_fails(engine: Path, failing: list[str]) -> None:
    before = {one: (engine.parent / one).read_bytes() for one in left_in(engine.parent)}
    with pytest.raises(ExportError, match="fails its test: row 1"):
        engine_from_onnx(engine.with_name("model.onnx"), engine=engine)
    assert engine.name in failing, "the old one is there while the new one is tested"
    failed = failed_log_path(engine).name
    assert left_in(engine.parent) - {failed} == set(before), "no parts"
    assert {one: (engine.parent / one).read_bytes() for one in before} == before
    assert compatibility.engine_at(engine).manifest is not None


def test_a_first_engine_that_fails_is_not_there(graph: Path, failing: list[str]) -> None:
    with pytest.raises(ExportError, match="it was not kept"):
        engine_from_onnx(graph)
    left = left_in(graph.parent)
    assert left - {"model-rtx.engine.failed.log"} == {graph.name}
    assert any(one.endswith(".part") for one in failing)


def test_unchecked_is_not_tested(graph: Path, failing: list[str]) -> None:
    report = engine_from_onnx(graph, check=False)
    assert not failing
    assert report.self_test is None
    assert log_path(report.path).is_file()
