"""The letterbox as a part of the graph: frames of one source size come in as the camera gives them.

Enters: a deploy graph, whose `frames` are letterboxed, and the source size. Leaves: the same graph with `frames` uint8
(N, source height, source width, 3). Detections stay in letterboxed pixels. Does not know files.

The same geometry as `vision/letterbox.py`, with plain ONNX operators. OpenCV interpolates in fixed point and rounds;
here it is float and rounds too, so that pixels are the same to within one level of 255.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from trt_yolo.errors import ExportError
from trt_yolo.graph.writer import FLOAT, UINT8, GraphWriter, dimensions, opset_of, value_info
from trt_yolo.vision.letterbox import PADDING, Letterbox, fit_letterbox

_PREFIX = "letterbox."


def letterboxing_from_deploy(
    deploy: onnx.ModelProto, source_hw: tuple[int, int], imgsz_hw: tuple[int, int]
) -> onnx.ModelProto:
    """The deploy graph with the letterbox in it.

    Args:
        deploy: A deploy graph of trt-yolo's; changed in no way.
        source_hw: Height and width of its frames to be, in pixels.
        imgsz_hw: Height and width of the model's input, in pixels.

    Raises:
        ExportError: The graph does not begin as deploy graphs do.
    """
    model = onnx.ModelProto()
    model.CopyFrom(deploy)
    graph = model.graph
    cast = _only_reader(graph, "frames", "Cast")
    transpose = _only_reader(graph, cast.output[0], "Transpose")
    writer = GraphWriter(opset=opset_of(model), prefix=_PREFIX)
    letterboxed = write_letterbox(writer, fit_letterbox(source_hw, imgsz_hw))
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == transpose.output[0]:
                node.input[place] = letterboxed
    rest = [node for node in graph.node if node not in (cast, transpose)]
    del graph.node[:]
    graph.node.extend([*writer.nodes, *rest])
    graph.initializer.extend(writer.initializers)
    batch = dimensions(graph.input[0])[0]
    graph.input[0].CopyFrom(value_info("frames", UINT8, [batch, *source_hw, 3]))
    return model


def write_letterbox(writer: GraphWriter, letterbox: Letterbox) -> str:
    """Writes `frames` uint8 (N, source H, source W, 3) -> float (N, 3, H, W), 0 to 255; the result's name."""
    real = writer.op("Cast", "frames", name="cast", to=FLOAT)  # first: TensorRT does nothing else to uint8
    tensor = writer.op("Transpose", real, name="chw", perm=[0, 3, 1, 2])
    if letterbox.resized_hw != letterbox.source_hw:
        scales = writer.constant(_scales(letterbox), name="scales")
        resized = writer.op(
            "Resize", tensor, "", scales, name="resized", mode="linear",
            coordinate_transformation_mode="half_pixel",
        )  # fmt: skip
        tensor = writer.op("Round", resized, name="rounded")
    if letterbox.resized_hw != letterbox.target_hw:
        (height, width), (rows, columns) = letterbox.target_hw, letterbox.resized_hw
        before = [0, 0, letterbox.top, letterbox.left]
        after = [0, 0, height - rows - letterbox.top, width - columns - letterbox.left]
        pads = writer.constant(np.array(before + after, np.int64), name="pads")
        padding = writer.constant(np.float32(PADDING), name="padding")
        tensor = writer.op("Pad", tensor, pads, padding, name="padded", mode="constant")
    return tensor


def _scales(letterbox: Letterbox) -> npt.NDArray[np.float32]:
    """(4,) of N, C, H, W. A millionth more, so that no rounding makes a side one pixel shorter."""
    sides = zip(letterbox.resized_hw, letterbox.source_hw, strict=True)
    return np.array([1, 1, *(resized / source * (1 + 1e-6) for resized, source in sides)], np.float32)


def _only_reader(graph: onnx.GraphProto, tensor: str, kind: str) -> onnx.NodeProto:
    readers = [node for node in graph.node if tensor in node.input]
    if len(readers) != 1 or readers[0].op_type != kind:
        raise ExportError(
            f"the graph does not begin as trt-yolo's deploy graphs do ({tensor} is read by "
            f"{', '.join(node.op_type for node in readers) or 'nobody'}); export it again from the .pt"
        )
    reader: onnx.NodeProto = readers[0]
    return reader
