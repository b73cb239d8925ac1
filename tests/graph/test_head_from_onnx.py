"""Head graphs with the opsets, dimensions and names that other exporters write."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.errors import ExportError, InputError, TrtYoloError, UnsupportedModelError
from trt_yolo.evaluation.parity import check_same_head
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.graph.head_from_checkpoint import checkpoint_from_file, head_from_checkpoint
from trt_yolo.graph.writer import dimensions, opset_of

Change = Callable[[onnx.ModelProto], object]
_NAMES = [f"thing {index}" for index in range(10)]


@cache
def _head(opset: int = 13) -> bytes:
    """The demo's head graph at 64x64, without metadata."""
    model = head_from_checkpoint(
        checkpoint_from_file(demo_checkpoint()), imgsz_hw=(64, 64), batch=BatchRange(1, 1), opset=opset
    )
    del model.metadata_props[:]
    return bytes(model.SerializeToString())


def _saved(folder: Path, *changes: Change, opset: int = 13, **metadata: str) -> Path:
    model = onnx.ModelProto.FromString(_head(opset))
    onnx.helper.set_model_props(model, metadata)
    for change in changes:
        change(model)
    path = folder / "head.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _to_opset(opset: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        """Before 13, sizes and axes are attributes."""
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if name := {"Split": "split", "ReduceSum": "axes"}.get(node.op_type):
                node.attribute.append(onnx.helper.make_attribute(name, stored[node.input.pop()].tolist()))
        model.opset_import[0].version = opset

    return change


def _sides(side: int | str, *axes: int) -> Change:
    """Writes a side of the input, and what follows from it in the output, as something that is no number."""

    def change(model: onnx.ModelProto) -> None:
        places = [(model.graph.input[0], axis) for axis in axes]
        if 0 in axes:
            places.append((model.graph.output[0], 0))
        if 2 in axes:
            places += [(model.graph.output[0], 1), (model.graph.output[0], 2)]
        for value, axis in places:
            dim = value.type.tensor_type.shape.dim[axis]
            if isinstance(side, int):
                dim.dim_value = side
            else:
                dim.dim_param = f"{side}{axis}"

    return change


@pytest.mark.parametrize(
    ("changes", "opset", "wanted"),
    [
        ([_to_opset(11)], None, 13),
        ([_to_opset(12)], None, 13),
        ([_to_opset(12)], 17, 17),
        ([], None, 13),
        ([], 21, 21),
        ([lambda model: model.CopyFrom(onnx.version_converter.convert_version(model, 23))], None, 21),
    ],
    ids=["11", "12", "12 to 17", "13", "13 to 21", "23"],
)
def test_opsets_are_brought_to_one_that_is_supported(
    changes: list[Change], opset: int | None, wanted: int, tmp_path: Path
) -> None:
    path = _saved(tmp_path, *changes)
    report = export_model(path, out=tmp_path / "out", options=ExportOptions(opset=opset))
    assert report.parity is not None
    assert report.parity.detections > 20
    assert report.manifest.opset == opset_of(onnx.load(report.artifacts[0].path)) == wanted


def test_a_conversion_that_changes_the_graph_is_noticed() -> None:
    before, after = (onnx.ModelProto.FromString(_head()) for _ in range(2))
    manifest = Manifest(
        graph="head",
        names=dict(enumerate(_NAMES)),
        imgsz_hw=(64, 64),
        batch=BatchRange(1, 1),
        rows=0,
        anchors=84,
    )
    check_same_head(before, after, manifest, origin="a.onnx")
    tensor = next(one for one in after.graph.initializer if one.name.endswith(".strides"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    with pytest.raises(
        ExportError, match=r"a\.onnx gives other results after its conversion from opset 13 to 13"
    ):
        check_same_head(before, after, manifest, origin="a.onnx")


@pytest.mark.parametrize(
    ("change", "batch"),
    [
        (_sides("side", 0, 2, 3), BatchRange(1, 16)),
        (_sides(-1, 0, 2, 3), BatchRange(1, 16)),
        (_sides(0, 0, 2, 3), BatchRange(1, 16)),
        (_sides("side", 1, 2, 3), BatchRange(1, 1)),
        (_sides(-1, 0), BatchRange(1, 16)),
    ],
    ids=["names", "-1", "0", "channels", "batch of -1"],
)
def test_sides_that_are_no_numbers(change: Change, batch: BatchRange, tmp_path: Path) -> None:
    """What the graph does not say is inferred: classes and anchors too, with no metadata at all."""
    path = _saved(tmp_path, change)
    report = export_model(path, out=tmp_path / "out", options=ExportOptions(imgsz_hw=(64, 64), head=True))
    assert (report.manifest.batch, report.manifest.imgsz_hw) == (batch, (64, 64))
    assert (len(report.manifest.names), report.manifest.anchors) == (10, 84)
    (output,) = onnx.load(report.artifacts[0].path).graph.output
    assert dimensions(output)[1:] == [14, 84]


@pytest.mark.parametrize(
    "names", [str(_NAMES), str(dict(enumerate(_NAMES))), str({str(k): v for k, v in enumerate(_NAMES)})]
)
def test_names_arrive_however_they_are_written(names: str, tmp_path: Path) -> None:
    path = _saved(tmp_path, names=names)
    report = export_model(path, out=tmp_path / "out", options=ExportOptions(check=False))
    assert list(report.manifest.names.values()) == _NAMES


def _in_half_precision(model: onnx.ModelProto) -> None:
    """As Ultralytics does it on a CPU: FP16 inside, float32 outside, the casts at the end of the list."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and not tensor.name.endswith("scales"):
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    read, made = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [{read: "read16", made: "made16"}.get(name, name) for name in names]
    for source, target, kind in ((read, "read16", 10), ("made16", made, 1)):
        graph.node.append(onnx.helper.make_node("Cast", [source], [target], to=kind))


def test_half_precision_whose_nodes_are_not_in_order(tmp_path: Path) -> None:
    path = _saved(tmp_path, _in_half_precision)
    report = export_model(path, out=tmp_path / "out")
    assert report.parity is not None
    assert report.parity.detections > 20
    with pytest.raises(InputError, match="is in half precision already"):
        export_model(path, out=tmp_path / "out", options=ExportOptions(precision="fp16"))


def _of_type_99(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def _with_huge_sides(model: onnx.ModelProto) -> None:
    _sides("side", 2, 3)(model)
    onnx.helper.set_model_props(model, {"imgsz": f"[640, {10**30}]"})


def _without_weight_sides(model: onnx.ModelProto) -> None:
    _sides("side", 1)(model)
    next(one for one in model.graph.initializer if one.name == "model.0.weight").ClearField("dims")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_of_type_99, r"its inputs are of type 99; needed"),
        (_with_huge_sides, "has no fixed image size"),
        (_without_weight_sides, r"is not valid ONNX"),
    ],
)
def test_nonsense_is_one_line(change: Change, line: str, tmp_path: Path) -> None:
    with pytest.raises(TrtYoloError, match=line):
        export_model(_saved(tmp_path, change), out=tmp_path / "out")


def test_channels_are_told_by_a_first_convolution_in_groups_too(tmp_path: Path) -> None:
    def in_groups(model: onnx.ModelProto) -> None:
        _sides("side", 1)(model)
        model.graph.node[0].input[0] = "scaled"
        model.graph.node.append(onnx.helper.make_node("Conv", ["images", "scales"], ["scaled"], group=3))
        model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 1, 1, 1), np.float32), "scales"))

    report = export_model(_saved(tmp_path, in_groups), out=tmp_path / "out", options=ExportOptions(head=True))
    assert len(report.manifest.names) == 10


@pytest.mark.parametrize("options", [ExportOptions(), ExportOptions(head=True, check=False)])
def test_pictures_of_one_channel_are_refused_before_anything_is_written(
    options: ExportOptions, tmp_path: Path
) -> None:
    def grey(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
        tensor = next(one for one in model.graph.initializer if one.name == "model.0.weight")
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:, :1].copy(), tensor.name))

    with pytest.raises(UnsupportedModelError, match=r"head\.onnx takes images of 1 channel"):
        export_model(_saved(tmp_path, grey), out=tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
