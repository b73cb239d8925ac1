"""The deploy graph: pre-processing, network, box selection and exact NMS in one static graph.

Enters: a head graph (float NCHW in, `(N, 4 + classes, anchors)` out) and its manifest.
Leaves: a graph with inputs `frames` uint8 (N, H, W, 3) BGR, `conf` and `iou` float32 (1,), and outputs
`detections` float32 (N, rows, 6) and `unconverged` float32 (N, 1).
Does not know checkpoints, precision or files. Only plain ONNX operators and static shapes: no plugin, so
that ONNX Runtime and every TensorRT give the same rows, and a CUDA graph can hold all of it.

NMS without a data-dependent loop. Rows are sorted by score. `overlaps[i, j]` is 1 where i < j, both are
of one class and IoU(i, j) > iou. Then

    keep_0 = valid        keep_t+1 = valid * (1 - min(1, keep_t @ overlaps))

reaches a fixed point, which is greedy NMS: row j stays exactly if no kept row before it overlaps it.
The map turns order round, so keep_0, keep_2, keep_4 ... hold the greedy result from above: after an even
number of steps a row that greedy NMS keeps is never lost. `unconverged` counts the rows that the last
step still changed. Where it is 0 the rows are exact; else greedy NMS over these same rows is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.graph.writer import FLOAT, UINT8, GraphWriter, dimensions, opset_of, value_info

NMS_STEPS = 12
assert NMS_STEPS % 2 == 0, "an odd step could lose rows that greedy NMS keeps"

_PREFIX = "deploy."


def deploy_from_head(head: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """The deploy graph around a head graph.

    Args:
        head: A head graph with static height and width; changed in no way.
        manifest: Of the deploy graph to be: its size, class count and number of rows.
    """
    model = onnx.ModelProto()
    model.CopyFrom(head)
    graph = model.graph
    opset = opset_of(model)
    batch = dimensions(graph.input[0])[0]
    before = GraphWriter(opset=opset, prefix=_PREFIX)
    _preprocess(before, graph)
    after = GraphWriter(opset=opset, prefix=f"{_PREFIX}nms.")
    detections, unconverged = select_rows(
        after, _as_float32(after, graph), rows=manifest.rows, classes=len(manifest.names)
    )
    graph.node.extend(after.nodes)
    for output, name in ((detections, "detections"), (unconverged, "unconverged")):
        graph.node.add(op_type="Identity", input=[output], output=[name], name=name)
    nodes = [*before.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*before.initializers, *after.initializers])
    _set_interface(graph, batch, manifest)
    return model


def _set_interface(graph: onnx.GraphProto, batch: int | str, manifest: Manifest) -> None:
    del graph.input[:]
    graph.input.extend(
        [
            value_info("frames", UINT8, [batch, *manifest.imgsz_hw, 3]),
            value_info("conf", FLOAT, [1]),
            value_info("iou", FLOAT, [1]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            value_info("detections", FLOAT, [batch, manifest.rows, 6]),
            value_info("unconverged", FLOAT, [batch, 1]),
        ]
    )


def _preprocess(writer: GraphWriter, graph: onnx.GraphProto) -> None:
    """Writes `frames` -> the head's input: BGR to RGB, HWC to CHW, 0..255 to 0..1.

    Where the input feeds one float32 convolution, channel order and scale go into its weights.
    """
    name, elem_type = graph.input[0].name, graph.input[0].type.tensor_type.elem_type
    real = writer.op("Cast", "frames", name="cast", to=FLOAT)  # first: TensorRT does nothing else to uint8
    if elem_type == FLOAT and _fold_into_first_convolution(graph, name):
        _write_input(writer, name, real, op_type="Transpose", perm=[0, 3, 1, 2])
        return
    chw = writer.op("Transpose", real, name="chw", perm=[0, 3, 1, 2])
    rgb = writer.op("Gather", chw, writer.constant([2, 1, 0], dtype=np.int64), name="rgb", axis=1)
    scaled = writer.op("Mul", rgb, writer.constant(np.float32(1 / 255)), name="scaled")
    _write_input(writer, name, scaled, op_type="Cast", to=elem_type)


def _write_input(writer: GraphWriter, name: str, tensor: str, *, op_type: str, **attributes: Any) -> None:
    """Writes the node that makes what was the head's input."""
    node = onnx.helper.make_node(op_type, [tensor], [name], name=f"{_PREFIX}input", **attributes)
    writer.nodes.append(node)


def _fold_into_first_convolution(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the weights of the only reader of the input could take BGR order and 1/255 into them."""
    readers = [node for node in graph.node if name in node.input]
    if len(readers) != 1 or readers[0].op_type != "Conv":
        return False
    weight = readers[0].input[1]
    stored = next((tensor for tensor in graph.initializer if tensor.name == weight), None)
    uses = sum(list(node.input).count(weight) for node in graph.node)
    if stored is None or uses != 1 or stored.data_type != FLOAT or list(stored.dims[1:2]) != [3]:
        return False
    folded = numpy_helper.to_array(stored)[:, ::-1].astype(np.float64) / 255
    stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(folded, np.float32), weight))
    return True


def _as_float32(writer: GraphWriter, graph: onnx.GraphProto) -> str:
    """The head's output, as float32 whatever it was."""
    output = graph.output[0]
    if output.type.tensor_type.elem_type == FLOAT:
        return str(output.name)
    return writer.op("Cast", output.name, name="float", to=FLOAT)


def select_rows(writer: GraphWriter, head: str, *, rows: int, classes: int) -> tuple[str, str]:
    """Writes candidates, NMS and sorting; the names of `detections` and `unconverged`.

    Args:
        writer: What to write with; the graph has inputs `conf` and `iou`.
        head: Name of the head's output, float32 (N, 4 + classes, anchors).
        rows: Candidates that NMS sees, and rows of the result; at most the number of anchors.
        classes: Number of classes.
    """
    all_scores = writer.split(head, [4, classes], axis=1, name="head")[1]
    best = writer.reduce("ReduceMax", all_scores, axis=1, keepdims=False, name="best")
    score, index = _top_k(writer, best, rows, "candidates")  # (N, rows), sorted
    columns = _gather_columns(writer, head, index, 4 + classes)  # (N, 4 + classes, rows)
    cxcywh, scores = writer.split(columns, [4, classes], axis=1, name="columns")
    class_id = writer.op("ArgMax", scores, name="class", axis=1, keepdims=1)  # (N, 1, rows)
    corners = _corners(writer, cxcywh)  # (N, 4, rows)
    valid = writer.op("Cast", writer.op("Greater", score, "conf", name="above"), name="valid", to=FLOAT)
    overlaps = _overlaps(writer, corners, class_id, rows)
    keep, unconverged = _keep(writer, valid, overlaps, rows)
    kept_score = writer.op("Mul", score, keep, name="kept_score")
    final_score, order = _top_k(writer, kept_score, rows, "kept")
    as_rows = writer.op(
        "Concat", corners,
        writer.op("Unsqueeze", kept_score, writer.constant([1], dtype=np.int64), name="score_row"),
        writer.op("Cast", class_id, name="class_row", to=FLOAT),
        name="fields", axis=1,
    )  # (N, 6, rows)  # fmt: skip
    used = writer.op("Greater", final_score, writer.constant(np.float32(0)), name="used")
    used_row = writer.op(
        "Unsqueeze", writer.op("Cast", used, name="used_float", to=FLOAT),
        writer.constant([1], dtype=np.int64), name="used_row",
    )  # fmt: skip
    ordered = writer.op("Mul", _gather_columns(writer, as_rows, order, 6), used_row, name="blanked")
    return writer.op("Transpose", ordered, name="rows", perm=[0, 2, 1]), unconverged


def _top_k(writer: GraphWriter, tensor: str, rows: int, name: str) -> tuple[str, str]:
    """The largest values of the last axis, sorted, and where they were."""
    count = writer.constant([rows], dtype=np.int64, name=f"{name}.count")
    values, indices = f"{_PREFIX}nms.{name}", f"{_PREFIX}nms.{name}.index"
    writer.nodes.append(
        onnx.helper.make_node("TopK", [tensor, count], [values, indices], name=values, axis=-1, sorted=1)
    )
    return values, indices


def _gather_columns(writer: GraphWriter, tensor: str, index: str, height: int) -> str:
    """(N, height, anchors) and (N, rows) -> (N, height, rows)."""
    flat = writer.op("Unsqueeze", index, writer.constant([1], dtype=np.int64), name="index")
    shape = writer.constant([1, height, 1], dtype=np.int64)
    return writer.op(
        "GatherElements", tensor, writer.op("Expand", flat, shape, name="indices"), name="gather", axis=2
    )


def _corners(writer: GraphWriter, cxcywh: str) -> str:
    centre, size = writer.split(cxcywh, [2, 2], axis=1, name="cxcywh")
    half = writer.op("Mul", size, writer.constant(np.float32(0.5)), name="half_size")
    first = writer.op("Sub", centre, half, name="x1y1")
    return writer.op("Concat", first, writer.op("Add", centre, half, name="x2y2"), name="corners", axis=1)


def _overlaps(writer: GraphWriter, corners: str, class_id: str, rows: int) -> str:
    """(N, rows, rows) float32: 1 where the row's box suppresses the column's."""
    by_column = writer.split(corners, [1, 1, 1, 1], axis=1, name="as_columns")  # each (N, 1, rows)
    by_row = [writer.op("Transpose", side, name="as_row", perm=[0, 2, 1]) for side in by_column]
    extents = []
    for axis in (0, 1):
        low = writer.op("Max", by_row[axis], by_column[axis], name="low")
        high = writer.op("Min", by_row[axis + 2], by_column[axis + 2], name="high")
        extents.append(writer.op("Relu", writer.op("Sub", high, low, name="extent"), name="extent_positive"))
    intersection = writer.op("Mul", *extents, name="intersection")  # (N, rows, rows)
    width = writer.op("Sub", by_column[2], by_column[0], name="width")
    height = writer.op("Sub", by_column[3], by_column[1], name="height")
    area = writer.op("Mul", width, height, name="area")  # (N, 1, rows)
    both = writer.op("Add", writer.op("Transpose", area, name="area_row", perm=[0, 2, 1]), area, name="both")
    union = writer.op("Sub", both, intersection, name="union")
    over = writer.op("Greater", intersection, writer.op("Mul", union, "iou", name="limit"), name="over")
    class_row = writer.op("Transpose", class_id, name="class_by_row", perm=[0, 2, 1])
    same = writer.op("Equal", class_row, class_id, name="same_class")
    by_row_number = writer.constant(np.arange(rows)[None, :, None], dtype=np.int32, name="row_number")
    by_column_number = writer.constant(np.arange(rows)[None, None], dtype=np.int32, name="column_number")
    earlier = writer.op(
        "Less", by_row_number, by_column_number, name="earlier"
    )  # as a table it weighs 260 kB
    both_hold = writer.op("And", writer.op("And", over, same, name="over_same"), earlier, name="suppresses")
    return writer.op("Cast", both_hold, name="overlaps", to=FLOAT)


def _keep(writer: GraphWriter, valid: str, overlaps: str, rows: int) -> tuple[str, str]:
    """(N, rows) of 0 and 1: the rows that stay, and (N, 1): how many the last step changed."""
    row_shape, flat_shape = [0, 1, rows], [0, rows]
    valid = writer.reshape(valid, row_shape, name="valid_row")  # (N, 1, rows)
    one = writer.constant(np.float32(1), name="one")
    keep = previous = valid
    for step in range(NMS_STEPS):
        previous = keep
        hits = writer.op("MatMul", previous, overlaps, name=f"hits.{step}")
        free = writer.op("Sub", one, writer.op("Min", hits, one, name=f"hit.{step}"), name=f"free.{step}")
        keep = writer.op("Mul", valid, free, name=f"keep.{step}")
    changed = writer.op("Abs", writer.op("Sub", keep, previous, name="change"), name="changed")
    count = writer.reduce("ReduceSum", changed, axis=2, keepdims=False, name="unconverged")
    return writer.reshape(keep, flat_shape, name="keep"), count
