"""The blocks of YOLOv8 as ONNX nodes, one function a block type.

Enters: a `Record` of a checkpoint's module, and the tensors that it reads. Leaves: its output's name.
Does not know files, layers or image metadata; a block that is not here is named in the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import CheckpointError, UnsupportedModelError
from trt_yolo.graph.records import Record, shown
from trt_yolo.graph.writer import GraphWriter

_MAX_MODULES = 10_000  # YOLOv8x has 250; a module that holds itself many times over has no end

_Array = npt.NDArray[np.float32]


class UnknownBlockError(UnsupportedModelError):
    """A block that the native exporter does not know; Ultralytics' exporter may."""


def emit_block(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    """The output of one module, written by the function for its type."""
    graph.modules += 1
    if graph.modules > _MAX_MODULES:
        raise CheckpointError(f"the checkpoint has more than {_MAX_MODULES} modules: it is damaged")
    block = _BLOCKS.get(record.class_name)
    if block is None or not record.class_path.startswith(("ultralytics.", "torch.nn.")):
        raise UnknownBlockError(unknown_block(record, name))
    check_members(record, name)
    return block(graph, record, tensors, name)


def _conv_block(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    """Conv: convolution, batch norm folded into it, activation."""
    weight, bias = _folded(record.conv, record.get("bn"))
    return _activation(
        graph, record.act, _convolution(graph, record.conv, weight, bias, tensors[0], name), name
    )


def _conv2d(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    weight, bias = _folded(record, None)
    return _convolution(graph, record, weight, bias, tensors[0], name)


def _folded(conv: Record, norm: Record | None) -> tuple[_Array, _Array]:
    """Weight and bias of a convolution with the batch norm behind it folded in, computed in float64."""
    weight = _tensor(conv, "weight", 4)
    bias = np.zeros(len(weight)) if conv.get("bias") is None else _tensor(conv, "bias", 1)
    if norm is not None:
        scale = _tensor(norm, "weight", 1) / np.sqrt(_tensor(norm, "running_var", 1) + float(norm.eps))
        weight = weight * scale[:, None, None, None]
        bias = _tensor(norm, "bias", 1) + (bias - _tensor(norm, "running_mean", 1)) * scale
    return weight.astype(np.float32), bias.astype(np.float32)


def _tensor(record: Record, name: str, dimensions: int) -> npt.NDArray[np.float64]:
    value = getattr(record, name)
    if not isinstance(value, np.ndarray) or value.ndim != dimensions or not np.isfinite(value).all():
        raise CheckpointError(
            f"the checkpoint's {record.class_name}.{name} is no finite tensor of {dimensions} dimensions; "
            "it is damaged, or training diverged"
        )
    return value.astype(np.float64)


def _convolution(
    graph: GraphWriter, conv: Record, weight: _Array, bias: _Array, tensor: str, name: str
) -> str:
    if conv.get("padding_mode", "zeros") != "zeros" or isinstance(conv.padding, str):
        raise UnknownBlockError(unknown_block(conv, name, detail=" with a padding mode"))
    top, left = _pair(conv.padding)
    return graph.op(
        "Conv", tensor,
        graph.constant(weight, name=f"{name}.weight"), graph.constant(bias, name=f"{name}.bias"),
        name=f"{name}.conv", kernel_shape=weight.shape[2:], strides=_pair(conv.stride),
        pads=[top, left, top, left], dilations=_pair(conv.dilation), group=int(conv.groups),
    )  # fmt: skip


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)


def _activation(graph: GraphWriter, record: Record, tensor: str, name: str) -> str:
    kind = record.class_name
    if kind == "SiLU":
        return graph.op(
            "Mul", tensor, graph.op("Sigmoid", tensor, name=f"{name}.sigmoid"), name=f"{name}.silu"
        )
    if kind == "ReLU":
        return graph.op("Relu", tensor, name=f"{name}.relu")
    if kind == "LeakyReLU":
        return graph.op("LeakyRelu", tensor, name=f"{name}.relu", alpha=float(record.negative_slope))
    if kind == "Identity":
        return tensor
    raise UnknownBlockError(unknown_block(record, f"the activation of {name}"))


def _sequential(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    for index, module in enumerate(record.children()):
        tensors = [emit_block(graph, module, tensors, f"{name}.{index}")]
    return tensors[0]


def _bottleneck(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    inner = emit_block(graph, record.cv1, tensors, f"{name}.cv1")
    inner = emit_block(graph, record.cv2, [inner], f"{name}.cv2")
    return graph.op("Add", tensors[0], inner, name=f"{name}.add") if record.add else inner


def _c2f(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    inner = emit_block(graph, record.cv1, tensors, f"{name}.cv1")
    parts = graph.split(inner, [int(record.c)] * 2, axis=1, name=f"{name}.split")
    for index, module in enumerate(record.m.children()):
        parts.append(emit_block(graph, module, [parts[-1]], f"{name}.m.{index}"))
    joined = graph.op("Concat", *parts, name=f"{name}.concat", axis=1)
    return emit_block(graph, record.cv2, [joined], f"{name}.cv2")


def _c2(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    inner = emit_block(graph, record.cv1, tensors, f"{name}.cv1")
    first, second = graph.split(inner, [int(record.c)] * 2, axis=1, name=f"{name}.split")
    deep = emit_block(graph, record.m, [first], f"{name}.m")
    joined = graph.op("Concat", deep, second, name=f"{name}.concat", axis=1)
    return emit_block(graph, record.cv2, [joined], f"{name}.cv2")


def _sppf(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    pooled = [emit_block(graph, record.cv1, tensors, f"{name}.cv1")]
    for index in range(int(record.get("n", 3))):
        pooled.append(emit_block(graph, record.m, [pooled[-1]], f"{name}.m.{index}"))
    joined = graph.op("Concat", *pooled, name=f"{name}.concat", axis=1)
    output = emit_block(graph, record.cv2, [joined], f"{name}.cv2")
    return graph.op("Add", output, tensors[0], name=f"{name}.add") if record.get("add", False) else output


def _max_pool(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    top, left = _pair(record.padding)
    return graph.op(
        "MaxPool", tensors[0], name=f"{name}.pool", kernel_shape=_pair(record.kernel_size),
        strides=_pair(record.stride), pads=[top, left, top, left],
    )  # fmt: skip


def _upsample(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    if record.mode != "nearest" or record.size is not None:
        raise UnknownBlockError(unknown_block(record, name, detail=" that is not nearest by a factor"))
    vertical, horizontal = (
        record.scale_factor if isinstance(record.scale_factor, tuple) else (record.scale_factor,) * 2
    )
    scales = graph.constant([1, 1, vertical, horizontal], dtype=np.float32, name=f"{name}.scales")
    return graph.op(
        "Resize", tensors[0], "", scales, name=f"{name}.upsample",
        mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


def _concat(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    return graph.op("Concat", *tensors, name=f"{name}.concat", axis=int(record.d))


def _identity(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    return tensors[0]


_BLOCKS: dict[str, Callable[[GraphWriter, Record, list[str], str], str]] = {
    "Conv": _conv_block,
    "Conv2d": _conv2d,
    "Sequential": _sequential,
    "Bottleneck": _bottleneck,
    "C2": _c2,
    "C2f": _c2f,
    "SPPF": _sppf,
    "MaxPool2d": _max_pool,
    "Upsample": _upsample,
    "Concat": _concat,
    "Identity": _identity,
}
# The members that Ultralytics' blocks have, and those that they may have: a fused Conv has no bn.
_MEMBERS: dict[str, tuple[set[str], set[str]]] = {
    "Conv": ({"conv", "act"}, {"bn"}),
    "Bottleneck": ({"cv1", "cv2"}, set()),
    "C2": ({"cv1", "cv2", "m"}, set()),
    "C2f": ({"cv1", "cv2", "m"}, set()),
    "SPPF": ({"cv1", "cv2", "m"}, set()),
    "Concat": (set(), set()),
    "Detect": ({"cv2", "cv3", "dfl"}, {"one2one_cv2", "one2one_cv3"}),
}


def check_members(record: Record, name: str) -> None:
    """Refuses a block of a known name that a fork has changed: its graph would be another model's.

    Raises:
        UnsupportedModelError: A member too many or too few.
    """
    if record.class_name not in _MEMBERS:
        return
    needed, allowed = _MEMBERS[record.class_name]
    modules = record.get("_modules")
    members = (
        {key for key, member in modules.items() if member is not None} if isinstance(modules, dict) else set()
    )
    if wrong := sorted(map(str, (members - allowed) ^ needed)):
        has = "lacks" if wrong[0] in needed else "has"
        raise UnsupportedModelError(
            f"the checkpoint's block '{record.class_name}' ({name}) {has} a member '{shown(wrong[0])}', "
            "unlike Ultralytics' own: a fork of Ultralytics trained it; export it to ONNX with that fork "
            "and give the .onnx, or give --exporter ultralytics where the fork is installed"
        )


def emit_detect(
    graph: GraphWriter,
    record: Record,
    levels: list[str],
    strides: tuple[int, ...],
    imgsz_hw: tuple[int, int],
    name: str,
) -> None:
    """Writes `output0`: box distributions and class logits of all levels, decoded.

    Distribution focal loss (Li et al. 2020): each side of a box is the expectation over `reg_max` bins.
    """
    bins, classes = number_of(record, "reg_max"), number_of(record, "nc")
    box_levels, class_levels, anchors = [], [], []
    for index, (tensor, stride) in enumerate(zip(levels, strides, strict=True)):
        rows, columns = imgsz_hw[0] // stride, imgsz_hw[1] // stride
        box = emit_block(graph, record.cv2.children()[index], [tensor], f"{name}.cv2.{index}")
        logits = emit_block(graph, record.cv3.children()[index], [tensor], f"{name}.cv3.{index}")
        box_levels.append(graph.reshape(box, [0, 4 * bins, rows * columns], name=f"{name}.box.{index}"))
        class_levels.append(
            graph.reshape(logits, [0, classes, rows * columns], name=f"{name}.logits.{index}")
        )
        anchors.append(_anchor_centres(rows, columns, stride))
    centres_and_stride = np.concatenate(anchors, axis=1)
    box = graph.op("Concat", *box_levels, name=f"{name}.box", axis=2)
    logits = graph.op("Concat", *class_levels, name=f"{name}.logits", axis=2)
    sides = _expected_sides(graph, record, box, bins, centres_and_stride.shape[1], name)
    left_top, right_bottom = graph.split(sides, [2, 2], axis=1, name=f"{name}.sides")
    centres = graph.constant(centres_and_stride[None, :2], name=f"{name}.anchors")
    first = graph.op("Sub", centres, left_top, name=f"{name}.x1y1")
    second = graph.op("Add", centres, right_bottom, name=f"{name}.x2y2")
    total = graph.op("Add", first, second, name=f"{name}.sum")
    middle = graph.op("Mul", total, graph.constant(np.float32(0.5), name=f"{name}.half"), name=f"{name}.cxcy")
    size = graph.op("Sub", second, first, name=f"{name}.wh")
    in_cells = graph.op("Concat", middle, size, name=f"{name}.cells", axis=1)
    stride_row = graph.constant(centres_and_stride[None, 2:], name=f"{name}.strides")
    boxes = graph.op("Mul", in_cells, stride_row, name=f"{name}.boxes")
    scores = graph.op("Sigmoid", logits, name=f"{name}.scores")
    graph.op("Concat", boxes, scores, name="output0", axis=1)


def _anchor_centres(rows: int, columns: int, stride: int) -> _Array:
    """(3, rows * columns): x and y of each cell's centre in cells, and the stride."""
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)]).astype(np.float32)


def _expected_sides(graph: GraphWriter, record: Record, box: str, bins: int, anchors: int, name: str) -> str:
    """(N, 4, anchors): distance of left, top, right, bottom from the anchor, in cells."""
    weight = _tensor(record.dfl.conv, "weight", 4).astype(np.float32).reshape(1, 1, bins, 1)
    split = graph.reshape(box, [0, 4, bins, anchors], name=f"{name}.dfl")
    likely = graph.op("Softmax", split, name=f"{name}.dfl.softmax", axis=2)
    weighted = graph.op(
        "Mul", likely, graph.constant(weight, name=f"{name}.dfl.bins"), name=f"{name}.dfl.mul"
    )
    return graph.reduce("ReduceSum", weighted, axis=2, keepdims=False, name=f"{name}.dfl.sides")


def number_of(record: Record, name: str) -> int:
    """An attribute that must be one number."""
    value = getattr(record, name)
    if isinstance(value, bool) or not isinstance(value, int | float | np.ndarray) or np.size(value) != 1:
        raise CheckpointError(f"the checkpoint's {record.class_name}.{name} is no number; save it again")
    return int(np.asarray(value).ravel()[0])


def unknown_block(record: Record, where: str, *, detail: str = "") -> str:
    """The message that names a block which the native exporter does not know, and the way out."""
    return (
        f"the native exporter does not know the block '{record.class_name}'{detail} ({where}): "
        "it is for YOLOv8; for other architectures: pip install 'trt-yolo[export]', then --exporter ultralytics"
    )
