"""The real ONNX Runtime on real exports, on small graphs of known answers, and on files that are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.assertions import assert_detections_match
from trt_yolo.artifacts.manifest import DEFAULT_ROWS
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import Rows
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.demo.scenes import scene
from trt_yolo.detections import Detections
from trt_yolo.errors import BackendError, InputError, TrtYoloError, UnsupportedModelError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.hardware.cores import usable_cpus
from trt_yolo.vision.nms import greedy_nms

HW = (64, 64)
ANCHORS = 64 + 16 + 4  # of strides 8, 16 and 32


@pytest.fixture(scope="module")
def frames() -> npt.NDArray[np.uint8]:
    return np.stack([scene(index).image_bgr for index in range(4)])


@pytest.fixture(scope="module")
def deploy(demo_onnx: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(demo_onnx)


@pytest.fixture(scope="module")
def head(demo_head_onnx: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(demo_head_onnx)


def _detections(rows: Rows) -> Detections:
    used = rows[rows[:, 4] > 0]
    return Detections(used[:, :4], used[:, 4], used[:, 5].astype(np.int64))


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(("conf", "iou"), [(0.25, 0.7), (0.01, 0.5)])
def test_head_and_deploy_graph_find_the_same(
    deploy: OnnxRuntimeBackend,
    head: OnnxRuntimeBackend,
    frames: npt.NDArray[np.uint8],
    index: int,
    conf: float,
    iou: float,
) -> None:
    assert (head.manifest.graph, deploy.manifest.graph) == ("head", "deploy")
    frame = frames[index : index + 1]
    wanted = _detections(head.infer(frame, conf=conf, iou=iou)[0])
    assert len(wanted) >= 3
    assert_detections_match(_detections(deploy.infer(frame, conf=conf, iou=iou)[0]), wanted)


def test_rows_are_sorted_and_unused_rows_are_zero(
    deploy: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8]
) -> None:
    rows = deploy.infer(frames[:1], conf=0.25, iou=0.7)[0]
    assert (rows.shape, rows.dtype) == ((deploy.manifest.rows, 6), np.float32)
    assert (np.diff(rows[:, 4]) <= 0).all()
    used = rows[:, 4] > 0
    assert 0 < used.sum() < len(rows)
    assert not rows[~used].any()


def test_conf_changes_what_is_found_between_two_calls(
    deploy: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8]
) -> None:
    by_conf = {
        conf: _detections(deploy.infer(frames[:1], conf=conf, iou=0.7)[0]) for conf in (0, 0.05, 0.9, 1)
    }
    counts = [len(found) for found in by_conf.values()]
    assert counts == sorted(counts, reverse=True)
    assert counts[1] > counts[2] > counts[3] == 0
    for conf, found in by_conf.items():
        assert (found.confidence > conf).all()


def test_iou_changes_what_is_found_between_two_calls(
    deploy: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8]
) -> None:
    few, many, all_of_them = (deploy.infer(frames[:1], conf=0.001, iou=iou)[0] for iou in (0.1, 0.9, 1.0))
    candidates = all_of_them[all_of_them[:, 4] > 0]
    for rows, iou in ((few, 0.1), (many, 0.9)):
        np.testing.assert_allclose(rows[rows[:, 4] > 0], greedy_nms(candidates, iou=iou), atol=1e-4)
    assert (few[:, 4] > 0).sum() < (many[:, 4] > 0).sum() < len(candidates)


def test_bytes_are_loaded_like_the_file(
    deploy: OnnxRuntimeBackend, demo_onnx: Path, frames: npt.NDArray[np.uint8]
) -> None:
    from_bytes = OnnxRuntimeBackend(demo_onnx.read_bytes(), threads=1)
    assert (from_bytes.manifest, from_bytes.threads) == (deploy.manifest, 1)
    np.testing.assert_allclose(
        from_bytes.infer(frames[:1], conf=0.25, iou=0.7),
        deploy.infer(frames[:1], conf=0.25, iou=0.7),
        atol=1e-3,
    )


def test_threads_are_every_core_unless_given(deploy: OnnxRuntimeBackend) -> None:
    assert deploy.threads == usable_cpus().count >= 1


def test_a_path_may_hold_any_character(demo_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "日本 modèle.onnx"
    path.write_bytes(demo_onnx.read_bytes())
    assert OnnxRuntimeBackend(path).manifest.imgsz_hw == (256, 256)


def test_a_static_batch_gives_each_frame_its_own_rows(
    demo_static4_onnx: Path, deploy: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8]
) -> None:
    backend = OnnxRuntimeBackend(demo_static4_onnx)
    alone = [_detections(deploy.infer(frame[None], conf=0.25, iou=0.7)[0]) for frame in frames]
    for count in (1, 3, 4):
        rows = backend.infer(frames[:count], conf=0.25, iou=0.7)
        assert len(rows) == count
        for got, wanted in zip(rows, alone, strict=False):
            assert_detections_match(_detections(got), wanted)


GRAPHS = {
    "static-1": "demo_onnx",
    "static-4": "demo_static4_onnx",
    "dynamic-1:4": "demo_dynamic_onnx",
    "head": "demo_head_onnx",
}


@pytest.fixture(scope="module", params=GRAPHS)
def any_graph(request: pytest.FixtureRequest) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend(request.getfixturevalue(GRAPHS[request.param]), threads=1)


def _slot(backend: OnnxRuntimeBackend) -> tuple[npt.NDArray[np.uint8], Rows]:
    """Memory as a worker's slot has it, filled with what was there before."""
    largest = backend.manifest.batch.maximum
    rows = np.full((largest, backend.manifest.rows or DEFAULT_ROWS, 6), 77, np.float32)
    return np.full((largest, *backend.manifest.imgsz_hw, 3), 55, np.uint8), rows


@pytest.mark.parametrize("count", [1, 3, 4])
def test_from_memory_into_memory_gives_the_same_rows(
    any_graph: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8], count: int
) -> None:
    count = min(count, any_graph.manifest.batch.maximum)
    memory, rows = _slot(any_graph)
    memory[:count] = frames[:count]
    any_graph.infer_into(memory, rows, count=count, conf=0.25, iou=0.7)
    wanted = any_graph.infer(frames[:count], conf=0.25, iou=0.7)
    for got, one in zip(rows[:count], wanted, strict=True):
        assert_detections_match(_detections(got), _detections(one))
        assert not got[got[:, 4] == 0].any()
    assert all(len(_detections(got)) for got in rows[:count])


def test_the_same_memory_gives_each_frame_and_threshold_its_own_rows(
    any_graph: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8]
) -> None:
    memory, rows = _slot(any_graph)
    for index, conf, iou in [(0, 0.25, 0.7), (1, 0.25, 0.7), (1, 0.9, 0.7), (1, 0.01, 0.3), (0, 0.25, 0.7)]:
        memory[0] = frames[index]
        any_graph.infer_into(memory, rows, count=1, conf=conf, iou=iou)
        wanted = any_graph.infer(frames[index : index + 1], conf=conf, iou=iou)[0]
        assert_detections_match(_detections(rows[0]), _detections(wanted))


def test_several_slots_do_not_write_into_each_other(
    any_graph: OnnxRuntimeBackend, frames: npt.NDArray[np.uint8]
) -> None:
    slots = [_slot(any_graph) for _ in range(3)]
    for (memory, rows), frame in zip(slots, frames, strict=False):
        memory[0] = frame
        any_graph.infer_into(memory, rows, count=1, conf=0.25, iou=0.7)
    for (memory, rows), frame in zip(slots, frames, strict=False):
        np.testing.assert_array_equal(memory[0], frame)
        wanted = any_graph.infer(frame[None], conf=0.25, iou=0.7)[0]
        assert_detections_match(_detections(rows[0]), _detections(wanted))


def test_frames_that_are_not_there_are_not_answered_by_a_dynamic_batch(
    demo_dynamic_onnx: Path, frames: npt.NDArray[np.uint8]
) -> None:
    backend = OnnxRuntimeBackend(demo_dynamic_onnx, threads=1)
    memory, rows = _slot(backend)
    memory[:2] = frames[:2]
    backend.infer_into(memory, rows, count=2, conf=0.25, iou=0.7)
    assert (rows[2:] == 77).all()
    assert (memory[2:] == 55).all()


@pytest.mark.parametrize("count", [0, 5])
def test_a_count_that_the_model_does_not_take_is_refused(any_graph: OnnxRuntimeBackend, count: int) -> None:
    memory, rows = _slot(any_graph)
    more = np.concatenate([memory] * 5)
    with pytest.raises(InputError, match=f"a batch of {count} frames"):
        any_graph.infer_into(more, rows, count=count, conf=0.25, iou=0.7)
    assert (rows == 77).all()


def _head(
    boxes_cxcywh: npt.NDArray[np.float32],
    score_weights: npt.NDArray[np.float32],
    *,
    batch: int | str = 1,
    hw: Sequence[int | str] = HW,
    dtype: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """A head graph of three classes: red, green, blue. Scores are a channel's mean times the anchor's weight."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    constants = [
        numpy_helper.from_array(score_weights.reshape(1, 1, -1).astype(kind), "weights"),
        numpy_helper.from_array(boxes_cxcywh.reshape(1, 4, -1).astype(kind), "boxes"),
        numpy_helper.from_array(np.zeros((1, 1, 1), kind), "zero"),
        numpy_helper.from_array(np.array([0, 3, 1]), "shape"),
        numpy_helper.from_array(np.array([0]), "first"),
        numpy_helper.from_array(np.array([1]), "second"),
    ]
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        helper.make_node("Reshape", ["means", "shape"], ["channels"]),
        helper.make_node("Mul", ["channels", "weights"], ["scores"]),
        helper.make_node("Slice", ["scores", "first", "second", "second"], ["one"]),
        helper.make_node("Mul", ["one", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),
        helper.make_node("Concat", ["placed", "scores"], ["output0"], axis=1),
    ]
    return _model(
        nodes,
        constants,
        inputs=[helper.make_tensor_value_info("images", dtype, [batch, 3, *hw])],
        outputs=[helper.make_tensor_value_info("output0", dtype, [batch, 7, boxes_cxcywh.shape[1]])],
        metadata=metadata,
    )


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    metadata: dict[str, str] | None = None,
) -> bytes:
    graph = helper.make_graph(nodes, "made", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _one_box(**options: object) -> bytes:
    """A head whose first anchor is the box 8 16 24 48, and whose others never score."""
    boxes = np.zeros((4, ANCHORS), np.float32)
    boxes[:, 0] = 16, 32, 16, 32
    return _head(boxes, np.eye(1, ANCHORS, dtype=np.float32)[0], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize(
    ("bgr", "class_id", "score"), [((0, 0, 204), 0, 0.8), ((0, 153, 51), 1, 0.6), ((255, 0, 0), 2, 1.0)]
)
def test_a_foreign_head_graph_sees_rgb_from_0_to_1(
    dtype: int, bgr: tuple[int, int, int], class_id: int, score: float
) -> None:
    backend = OnnxRuntimeBackend(_one_box(dtype=dtype))
    assert (backend.manifest.graph, backend.manifest.names[2]) == ("head", "class_2")
    frame = np.full((1, *HW, 3), bgr, np.uint8)
    found = _detections(backend.infer(frame, conf=0.25, iou=0.7)[0])
    np.testing.assert_array_equal(found.xyxy, [[8, 16, 24, 48]])
    np.testing.assert_allclose(found.confidence, [score], atol=1e-3)
    assert found.class_id.tolist() == [class_id]


def test_an_input_of_no_images_is_refused_with_what_helps() -> None:
    model = onnx.load_model_from_string(_one_box())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 0
    with pytest.raises(UnsupportedModelError, match=r"an input of \(0, 3, .*trt-yolo export makes a graph"):
        OnnxRuntimeBackend(model.SerializeToString())


def test_a_dynamic_head_graph_takes_its_size_names_and_batch_from_its_metadata() -> None:
    metadata = {"imgsz": "[32, 96]", "names": "{0: 'r', 1: 'g', 2: 'b'}", "batch": "3", "task": "detect"}
    backend = OnnxRuntimeBackend(_one_box(batch="batch", hw=("height", "width"), metadata=metadata))
    assert backend.manifest.imgsz_hw == (32, 96)
    assert backend.manifest.names == {0: "r", 1: "g", 2: "b"}
    assert backend.manifest.batch == BatchRange(1, 3)
    frames = np.zeros((3, 32, 96, 3), np.uint8)
    frames[1] = 255
    assert (backend.infer(frames, conf=0.25, iou=0.7)[:, 0, 4] > 0).tolist() == [False, True, False]


def test_a_chain_too_long_for_the_graph_is_finished_on_the_host(tmp_path: Path) -> None:
    """Each box overlaps the next: greedy NMS keeps every other one, and settles them one after another."""
    boxes = np.zeros((4, ANCHORS), np.float32)
    boxes[:, :40] = np.stack([np.arange(40) + 10, np.full(40, 32), np.full(40, 3.5), np.full(40, 10)])
    weights = np.zeros(ANCHORS, np.float32)
    weights[:40] = np.linspace(0.9, 0.5, 40)
    source = tmp_path / "chain.onnx"
    source.write_bytes(_head(boxes, weights))
    report = export_model(source, out=tmp_path / "out", options=ExportOptions(check=False))
    backend = OnnxRuntimeBackend(report.artifacts[0].path)
    white = np.full((1, *HW, 3), 255, np.uint8)
    _, unconverged = backend.session.run(None, backend.feed(white, 0.25, 0.5))
    assert unconverged[0, 0] > 0, "the graph alone would have settled it"
    rows = _detections(backend.infer(white, conf=0.25, iou=0.5)[0])
    np.testing.assert_allclose(rows.xyxy[:, 0], np.arange(0, 40, 2) + 10 - 1.75)


def _constant_outputs(
    *shapes: Sequence[int],
    inputs: Sequence[tuple[int, Sequence[int]]] = ((TensorProto.FLOAT, (1, 3, 640, 640)),),
    metadata: dict[str, str] | None = None,
) -> bytes:
    """A model whose outputs are zeros of those shapes."""
    sizes = [numpy_helper.from_array(np.array(shape, np.int64), f"s{at}") for at, shape in enumerate(shapes)]
    return _model(
        [helper.make_node("ConstantOfShape", [f"s{at}"], [f"out{at}"]) for at in range(len(shapes))],
        sizes,
        inputs=[
            helper.make_tensor_value_info(f"in{at}", kind, shape) for at, (kind, shape) in enumerate(inputs)
        ],
        outputs=[
            helper.make_tensor_value_info(f"out{at}", TensorProto.FLOAT, shape)
            for at, shape in enumerate(shapes)
        ],
        metadata=metadata,
    )


IMAGE = (TensorProto.FLOAT, (1, 3, 640, 640))
HEAD_640 = (1, 84, 8400)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_constant_outputs((1, 1000)), id="classifier"),
        pytest.param(_constant_outputs((1, 116, 8400), (1, 32, 160, 160)), id="segmentation"),
        pytest.param(_constant_outputs((1, 25200, 85)), id="yolov5"),
        pytest.param(_constant_outputs((1, 300, 6)), id="nms-inside"),
        pytest.param(_constant_outputs(HEAD_640, inputs=[]), id="no-input"),
        pytest.param(
            _constant_outputs(HEAD_640, inputs=[IMAGE, (TensorProto.INT64, (1, 2))]), id="two-inputs"
        ),
        pytest.param(
            _constant_outputs(HEAD_640, inputs=[(TensorProto.UINT8, (1, 3, 640, 640))]), id="input-of-bytes"
        ),
        pytest.param(_constant_outputs(HEAD_640, inputs=[(TensorProto.FLOAT, (1, 10))]), id="no-image"),
        pytest.param(_constant_outputs(HEAD_640, metadata={"task": "pose"}), id="another-task"),
        pytest.param(_constant_outputs(HEAD_640, metadata={"trt_yolo": "{"}), id="damaged-manifest"),
    ],
)
def test_a_sound_model_of_another_kind_is_refused(model: bytes) -> None:
    with pytest.raises(UnsupportedModelError):
        OnnxRuntimeBackend(model)


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.999])
def test_a_model_cut_short_cannot_be_loaded(demo_onnx: Path, tmp_path: Path, share: float) -> None:
    path, data = tmp_path / "cut.onnx", demo_onnx.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BackendError) as caught:
        OnnxRuntimeBackend(path)
    message = str(caught.value)
    assert f"cannot load {path}: " in message
    assert "export it again" in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04" + b"\0" * 100, b"\0" * 4096])
def test_a_file_of_another_kind_cannot_be_loaded(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for model in (path, content):
        with pytest.raises(BackendError, match="cannot load"):
            OnnxRuntimeBackend(model)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.onnx", None, "no such file: "),
        ("", None, " is a folder"),
        ("empty.onnx", b"", " is empty"),
        pytest.param("x" * 300 + ".onnx", None, "", id="name-too-long"),
        pytest.param("a\0b.onnx", None, "no such file: ", id="null-character"),
    ],
)
def test_a_path_without_a_model_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        OnnxRuntimeBackend(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_bytes_are_no_model() -> None:
    with pytest.raises(TrtYoloError):
        OnnxRuntimeBackend(b"")


def test_the_bare_call_runs_the_session_on_those_frames(
    any_graph: OnnxRuntimeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.full((4, *any_graph.manifest.imgsz_hw, 3), 7, np.uint8)
    ran: list[Any] = []

    class Session:
        def run(self, outputs: None, feed: dict[str, npt.NDArray[Any]]) -> None:
            ran.append((outputs, [array.shape for array in feed.values()]))

    expected = [array.shape for array in any_graph.feed(frames, 0.25, 0.7).values()]
    monkeypatch.setattr(any_graph, "session", Session())
    call = any_graph.bare_call(frames, conf=0.25, iou=0.7)
    call()
    call()
    assert ran == [(None, expected)] * 2
