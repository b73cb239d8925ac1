"""The deploy graph: its NMS against plain greedy NMS, its pre-processing against the head's."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.graph.deploy_from_head import NMS_STEPS, deploy_from_head, select_rows
from trt_yolo.graph.head_from_checkpoint import checkpoint_from_file, head_from_checkpoint
from trt_yolo.graph.writer import FLOAT, GraphWriter, value_info
from trt_yolo.media.images import read_image
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into
from trt_yolo.vision.nms import greedy_nms, rows_from_head

ort = pytest.importorskip("onnxruntime")

Head = np.ndarray[Any, np.dtype[np.float32]]


@cache
def _selection(rows: int, classes: int) -> Any:
    """A session of the selection alone: head, conf, iou -> detections, unconverged."""
    writer = GraphWriter(opset=19)
    detections, unconverged = select_rows(writer, "head", rows=rows, classes=classes)
    model = writer.model(
        name="selection",
        inputs=[
            value_info("head", FLOAT, ["batch", 4 + classes, "anchors"]),
            value_info("conf", FLOAT, [1]),
            value_info("iou", FLOAT, [1]),
        ],
        outputs=[
            value_info(detections, FLOAT, ["batch", rows, 6]),
            value_info(unconverged, FLOAT, ["batch", 1]),
        ],
        metadata={},
    )
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _select(head: Head, *, rows: int, conf: float, iou: float) -> tuple[Head, Head]:
    session = _selection(rows, head.shape[1] - 4)
    feed = {"head": head, "conf": np.array([conf], np.float32), "iou": np.array([iou], np.float32)}
    return session.run(None, feed)


def _assert_equals_greedy(head: Head, *, rows: int, conf: float, iou: float) -> float:
    """Checks every image of a batch; the largest `unconverged` seen."""
    detections, unconverged = _select(head, rows=rows, conf=conf, iou=iou)
    for image, found, changed in zip(head, detections, unconverged[:, 0], strict=True):
        wanted = greedy_nms(rows_from_head(image, conf=conf, limit=rows), iou=iou)
        used = found[:, 4] > 0
        assert (np.diff(found[:, 4]) <= 0).all(), "rows are sorted by score"
        assert not found[~used].any(), "unused rows are zeros"
        got = found[used] if changed == 0 else greedy_nms(found[used], iou=iou)
        np.testing.assert_array_equal(got, wanted)
    return float(unconverged.max())


@st.composite
def _heads(draw: st.DrawFn) -> Head:
    """Random heads with clustered boxes, few distinct scores (ties) or many, some below any threshold."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, anchors, classes = (
        draw(st.integers(1, 3)),
        draw(st.integers(32, 200)),
        draw(st.sampled_from([1, 2, 5])),
    )
    clusters = draw(st.integers(1, 6))
    centres = rng.uniform(50, 590, (batch, 2, clusters))[:, :, rng.integers(0, clusters, anchors)]
    spread = draw(st.sampled_from([0.0, 2.0, 15.0, 80.0]))
    head = np.zeros((batch, 4 + classes, anchors), np.float32)
    head[:, :2] = centres + rng.normal(0, spread, (batch, 2, anchors))
    head[:, 2:4] = rng.uniform(10, 120, (batch, 2, anchors)).round(draw(st.sampled_from([-1, 6])))
    scores = rng.random((batch, classes, anchors)) ** draw(st.sampled_from([1, 6]))
    head[:, 4:] = scores.round(draw(st.sampled_from([1, 7])))
    return head


@settings(max_examples=300, deadline=None)
@given(
    head=_heads(),
    conf=st.sampled_from([0.0, 0.001, 0.25, 0.5, 0.95, 1.0]),
    iou=st.sampled_from([0.0, 0.1, 0.45, 0.7, 0.99, 1.0]),
)
def test_equals_greedy_nms_on_random_candidates(head: Head, conf: float, iou: float) -> None:
    _assert_equals_greedy(head, rows=32, conf=conf, iou=iou)


def _chain(length: int) -> Head:
    """Boxes of which each overlaps only its neighbours: greedy NMS must settle them one after another."""
    head = np.zeros((1, 5, max(length, 64)), np.float32)
    number = np.arange(length)
    head[0, 0, :length] = 20 + 10 * number
    head[0, 1, :length] = 50
    head[0, 2:4, :length] = 20
    head[0, 4, :length] = 0.9 - 0.01 * number
    return head


@pytest.mark.parametrize("length", [1, 2, 11, 12, 13, 14, 25, 40, 60])
def test_long_chains_are_finished_by_the_host(length: int) -> None:
    unconverged = _assert_equals_greedy(_chain(length), rows=64, conf=0.1, iou=0.2)
    assert (unconverged > 0) == (length > NMS_STEPS)


def test_nothing_found_is_all_zeros() -> None:
    detections, unconverged = _select(np.zeros((2, 9, 50), np.float32), rows=32, conf=0.25, iou=0.7)
    assert not detections.any()
    assert not unconverged.any()


def test_full_rows_keep_the_best() -> None:
    rng = np.random.default_rng(0)
    head = np.zeros((1, 5, 400), np.float32)
    head[0, :2] = rng.permutation(400) * 100
    head[0, 2:4] = 10
    head[0, 4] = rng.permutation(400) / 400
    detections, _ = _select(head, rows=64, conf=0.0, iou=0.7)
    np.testing.assert_array_equal(detections[0, :, 4], np.sort(head[0, 4])[::-1][:64])


@pytest.fixture(scope="module")
def yolov8n_head(yolov8n: Path) -> onnx.ModelProto:
    return head_from_checkpoint(checkpoint_from_file(yolov8n), imgsz_hw=(640, 640), batch=BatchRange(1, 1))


@pytest.mark.parametrize(("conf", "rows"), [(0.25, 512), (0.001, 1024), (0.25, 64)])
def test_equals_greedy_nms_on_real_candidates(
    yolov8n_head: onnx.ModelProto, val_images: list[Path], conf: float, rows: int
) -> None:
    session = ort.InferenceSession(yolov8n_head.SerializeToString(), providers=["CPUExecutionProvider"])
    for frame in _letterboxed(val_images[:12]):
        blob = np.ascontiguousarray(frame[None, ..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255
        _assert_equals_greedy(session.run(None, {"images": blob})[0], rows=rows, conf=conf, iou=0.7)


def _letterboxed(paths: list[Path]) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    frames = []
    for path in paths:
        image, frame = read_image(path), np.empty((640, 640, 3), np.uint8)
        letterbox_into(image, frame, fit_letterbox(image.shape[:2], (640, 640)))
        frames.append(frame)
    return frames


def _manifest(classes: int, imgsz_hw: tuple[int, int], rows: int) -> Manifest:
    names = {index: str(index) for index in range(classes)}
    return Manifest(
        graph="deploy", names=names, imgsz_hw=imgsz_hw, batch=BatchRange(1, 1), rows=rows, anchors=0
    )


def _pixel_head(*, dtype: int, readers: int) -> onnx.ModelProto:
    """A head that returns its own input's sums, so that pre-processing shows in the detections."""
    graph = GraphWriter(opset=19)
    mixed = []
    for reader in range(readers):
        weight = np.random.default_rng(reader).random((5, 3, 4, 4)).astype(np.float16).astype(np.float32)
        kernel = graph.constant(weight, dtype=onnx.helper.tensor_dtype_to_np_dtype(dtype), name="kernel")
        mixed.append(graph.op("Conv", "images", kernel, kernel_shape=[4, 4], strides=[4, 4]))
    total = mixed[0] if readers == 1 else graph.op("Add", *mixed)
    flat = graph.reshape(total, [1, 5, 64])
    graph.op(
        "Mul", flat, graph.constant(1 / 64, dtype=onnx.helper.tensor_dtype_to_np_dtype(dtype)), name="output0"
    )
    return graph.model(
        name="pixels",
        inputs=[value_info("images", dtype, [1, 3, 32, 32])],
        outputs=[value_info("output0", dtype, [1, 5, 64])],
        metadata={},
    )


@pytest.mark.parametrize(
    ("dtype", "readers", "folded", "tolerance"),
    [(FLOAT, 1, True, 1e-5), (FLOAT, 2, False, 1e-5), (onnx.TensorProto.FLOAT16, 1, False, 2e-2)],
)
def test_preprocessing_is_in_the_graph(dtype: int, readers: int, folded: bool, tolerance: float) -> None:
    head = _pixel_head(dtype=dtype, readers=readers)
    before = head.SerializeToString()
    deploy = deploy_from_head(head, _manifest(1, (32, 32), 64))
    assert head.SerializeToString() == before, "the head graph is left as it was"
    onnx.checker.check_model(deploy, full_check=True)
    has_channel_swap = any(node.op_type == "Gather" for node in deploy.graph.node)
    assert has_channel_swap == (not folded)
    frame = np.random.default_rng(3).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    blob = (frame[..., ::-1].transpose(0, 3, 1, 2) / 255).astype(onnx.helper.tensor_dtype_to_np_dtype(dtype))
    providers = ["CPUExecutionProvider"]
    raw = ort.InferenceSession(head.SerializeToString(), providers=providers).run(None, {"images": blob})[0]
    wanted = rows_from_head(raw[0].astype(np.float32), conf=0.0, limit=64)
    feed = {"frames": frame, "conf": np.zeros(1, np.float32), "iou": np.ones(1, np.float32)}
    got = ort.InferenceSession(deploy.SerializeToString(), providers=providers).run(None, feed)[0][0]
    np.testing.assert_allclose(np.sort(got[:, 4]), np.sort(wanted[:, 4]), rtol=tolerance)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_every_opset_gives_the_same_detections(yolov8n: Path, opset: int) -> None:
    checkpoint = checkpoint_from_file(yolov8n)
    manifest = dataclasses.replace(_manifest(80, (128, 128), 256), names=checkpoint.names)
    frame = np.random.default_rng(4).integers(0, 256, (1, 128, 128, 3)).astype(np.uint8)
    feed = {"frames": frame, "conf": np.zeros(1, np.float32), "iou": np.full(1, 0.7, np.float32)}
    outputs = []
    for number in (19, opset):
        head = head_from_checkpoint(checkpoint, imgsz_hw=(128, 128), batch=BatchRange(1, 1), opset=number)
        model = deploy_from_head(head, manifest)
        onnx.checker.check_model(model, full_check=True)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, feed)[0])
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-3)
