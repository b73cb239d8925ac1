"""The head graph of a YOLOv8 detection checkpoint, written without torch and without Ultralytics.

Enters: the records of `checkpoint.read_checkpoint`. Leaves: an ONNX model with input `images`, float32
(N, 3, H, W) RGB of 0 to 1, and output `output0`, float32 (N, 4 + classes, anchors): cx cy w h in pixels,
then a score for each class. The same as Ultralytics' own export, metadata included.
Does not know: letterbox, NMS, precision. One function a block type; an unknown block is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from trt_yolo.errors import CheckpointError, InputError, UnsupportedModelError
from trt_yolo.export.checkpoint import Record, read_checkpoint
from trt_yolo.export.graph import DEFAULT_OPSET, FLOAT, GraphWriter, value_info
from trt_yolo.shapes import BatchRange

Array = npt.NDArray[np.float32]

_TASKS = {
    "Segment": "segmentation",
    "Pose": "pose",
    "OBB": "oriented-box",
    "Classify": "classification",
    "RTDETRDecoder": "RT-DETR",
    "v10Detect": "YOLOv10",
    "WorldDetect": "YOLO-World",
}


class UnknownBlockError(UnsupportedModelError):
    """A block that the native exporter does not know; Ultralytics' exporter may."""


@dataclass(frozen=True)
class Checkpoint:
    """A detection checkpoint, understood but not yet converted.

    Attributes:
        layers: The records of the module tree, in order; the last one is the Detect head.
        names: Class names by class id.
        strides: Downsampling of each detection level, in pixels.
        imgsz: Side of the square that it was trained on, in pixels.
    """

    layers: list[Record]
    names: dict[int, str]
    strides: tuple[int, ...]
    imgsz: int

    def anchors(self, imgsz_hw: tuple[int, int]) -> int:
        """How many anchors the head has at an image size, all levels together."""
        return sum((imgsz_hw[0] // stride) * (imgsz_hw[1] // stride) for stride in self.strides)


def checkpoint_from_file(path: Path) -> Checkpoint:
    """The detection model inside a `.pt` file.

    Raises:
        CheckpointError: Damaged, or no YOLO model inside.
        UnsupportedModelError: A model of another task, or of another architecture.
    """
    content = read_checkpoint(path)
    model = _model(content)
    if not isinstance(model, Record) or not isinstance(model.get("model"), Record):
        raise CheckpointError(
            f"{path} holds no YOLO model, perhaps only weights (a state_dict); "
            "give a checkpoint as Ultralytics saves it, such as best.pt"
        )
    layers = [layer for layer in model.model.children() if isinstance(layer, Record)]
    if not layers:
        raise CheckpointError(f"{path} holds a model without layers; save it again with Ultralytics")
    _check_task(path, layers[-1])
    return Checkpoint(
        layers=layers,
        names=_names(model, _number(layers[-1], "nc")),
        strides=tuple(int(stride) for stride in np.asarray(layers[-1].stride).ravel()),
        imgsz=_trained_imgsz(content),
    )


def head_from_checkpoint(
    checkpoint: Checkpoint, *, imgsz_hw: tuple[int, int], batch: BatchRange, opset: int = DEFAULT_OPSET
) -> onnx.ModelProto:
    """The head graph.

    Args:
        checkpoint: What `checkpoint_from_file` returned.
        imgsz_hw: Height and width of the input, in pixels; multiples of the largest stride.
        batch: Static where its ends are equal, else the batch dimension is dynamic.
        opset: ONNX operator set, 13 to 21.

    Raises:
        InputError: The size is no multiple of the largest stride.
        UnknownBlockError: The checkpoint has a block that this exporter does not know.
    """
    largest = max(checkpoint.strides)
    if any(side % largest for side in imgsz_hw):
        height, width = imgsz_hw
        raise InputError(
            f"image size {height}x{width} does not fit this model: both sides must be multiples of {largest}; "
            f"try {_round_up(height, largest)}x{_round_up(width, largest)}"
        )
    graph = GraphWriter(opset=opset)
    outputs: list[str] = []
    tensor = "images"
    for index, layer in enumerate(checkpoint.layers[:-1]):
        tensor = _emit(graph, layer, _sources(layer, tensor, outputs), f"model.{index}")
        outputs.append(tensor)
    detect = checkpoint.layers[-1]
    levels = _sources(detect, tensor, outputs)
    _detect(graph, detect, levels, checkpoint.strides, imgsz_hw, f"model.{len(outputs)}")
    size: int | str = batch.minimum if batch.is_static else "batch"
    return graph.model(
        name="yolov8",
        inputs=[value_info("images", FLOAT, [size, 3, *imgsz_hw])],
        outputs=[
            value_info("output0", FLOAT, [size, 4 + len(checkpoint.names), checkpoint.anchors(imgsz_hw)])
        ],
        metadata={
            "task": "detect",
            "stride": str(largest),
            "batch": str(batch.maximum),
            "imgsz": str(list(imgsz_hw)),
            "names": str(checkpoint.names),
        },
    )


def trained_imgsz(path: Path) -> int:
    """The image size, in pixels, that the checkpoint of any architecture was trained on.

    Raises:
        CheckpointError: Damaged, or its pickle names code that is not on the allow-list.
    """
    return _trained_imgsz(read_checkpoint(path))


def _model(content: Any) -> Any:
    """The pickled model: the averaged weights (`ema`) where they are kept beside the trained ones."""
    if not isinstance(content, dict):
        return content
    return content.get("ema") if isinstance(content.get("ema"), Record) else content.get("model")


def _check_task(path: Path, head: Record) -> None:
    if head.class_name in _TASKS:
        raise UnsupportedModelError(
            f"{path} is a {_TASKS[head.class_name]} model; this version of trt-yolo exports detection models, "
            "such as yolov8n.pt"
        )
    if head.class_name != "Detect":
        raise UnknownBlockError(_unknown(head, "the last layer"))
    if head.get("one2one_cv2") is not None or _number(head, "reg_max") == 1:
        raise UnknownBlockError(_unknown(head, "the last layer", detail=" in its end-to-end form"))


def _unknown(record: Record, where: str, *, detail: str = "") -> str:
    return (
        f"the native exporter does not know the block '{record.class_name}'{detail} ({where}): "
        "it is for YOLOv8; for other architectures: pip install 'trt-yolo[export]', then --exporter ultralytics"
    )


def _names(model: Record, classes: int) -> dict[int, str]:
    names = model.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or len(names) != classes:
        return {index: f"class{index}" for index in range(classes)}
    return {int(index): str(name) for index, name in names.items()}


def _trained_imgsz(content: Any) -> int:
    """The image size among the training arguments; 640 where they do not say."""
    model = _model(content)
    candidates = [content.get("train_args")] if isinstance(content, dict) else []
    for arguments in (*candidates, model.get("args") if isinstance(model, Record) else None):
        size = arguments.get("imgsz") if isinstance(arguments, dict | Record) else None
        if isinstance(size, int) and size > 0:
            return size
    return 640


def _round_up(value: int, multiple: int) -> int:
    return max(multiple, -(-value // multiple) * multiple)


def _number(record: Record, name: str) -> int:
    value = getattr(record, name)
    if isinstance(value, bool) or not isinstance(value, int | float | np.ndarray) or np.size(value) != 1:
        raise CheckpointError(f"the checkpoint's {record.class_name}.{name} is no number; save it again")
    return int(np.asarray(value).ravel()[0])


def _sources(layer: Record, previous: str, outputs: list[str]) -> list[str]:
    """The tensors that a layer reads: -1 is the one before it, other numbers are layers."""
    wanted = layer.f if isinstance(layer.f, list | tuple) else [layer.f]
    try:
        return [previous if index == -1 else outputs[index] for index in wanted]
    except (IndexError, TypeError):
        raise CheckpointError(
            f"the checkpoint's layer {len(outputs)} reads from {wanted}, which is no layer; save it again"
        ) from None


def _emit(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    """The output of one module, written by the function for its type."""
    block = _BLOCKS.get(record.class_name)
    if block is None or not record.class_path.startswith(("ultralytics.", "torch.nn.")):
        raise UnknownBlockError(_unknown(record, name))
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


def _folded(conv: Record, norm: Record | None) -> tuple[Array, Array]:
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


def _convolution(graph: GraphWriter, conv: Record, weight: Array, bias: Array, tensor: str, name: str) -> str:
    if conv.get("padding_mode", "zeros") != "zeros" or isinstance(conv.padding, str):
        raise UnknownBlockError(_unknown(conv, name, detail=" with a padding mode"))
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
    raise UnknownBlockError(_unknown(record, f"the activation of {name}"))


def _sequential(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    for index, module in enumerate(record.children()):
        tensors = [_emit(graph, module, tensors, f"{name}.{index}")]
    return tensors[0]


def _bottleneck(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    inner = _emit(graph, record.cv1, tensors, f"{name}.cv1")
    inner = _emit(graph, record.cv2, [inner], f"{name}.cv2")
    return graph.op("Add", tensors[0], inner, name=f"{name}.add") if record.add else inner


def _c2f(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    inner = _emit(graph, record.cv1, tensors, f"{name}.cv1")
    parts = graph.split(inner, [int(record.c)] * 2, axis=1, name=f"{name}.split")
    for index, module in enumerate(record.m.children()):
        parts.append(_emit(graph, module, [parts[-1]], f"{name}.m.{index}"))
    joined = graph.op("Concat", *parts, name=f"{name}.concat", axis=1)
    return _emit(graph, record.cv2, [joined], f"{name}.cv2")


def _c2(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    inner = _emit(graph, record.cv1, tensors, f"{name}.cv1")
    first, second = graph.split(inner, [int(record.c)] * 2, axis=1, name=f"{name}.split")
    deep = _emit(graph, record.m, [first], f"{name}.m")
    joined = graph.op("Concat", deep, second, name=f"{name}.concat", axis=1)
    return _emit(graph, record.cv2, [joined], f"{name}.cv2")


def _sppf(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    pooled = [_emit(graph, record.cv1, tensors, f"{name}.cv1")]
    for index in range(int(record.get("n", 3))):
        pooled.append(_emit(graph, record.m, [pooled[-1]], f"{name}.m.{index}"))
    joined = graph.op("Concat", *pooled, name=f"{name}.concat", axis=1)
    output = _emit(graph, record.cv2, [joined], f"{name}.cv2")
    return graph.op("Add", output, tensors[0], name=f"{name}.add") if record.get("add", False) else output


def _max_pool(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    top, left = _pair(record.padding)
    return graph.op(
        "MaxPool", tensors[0], name=f"{name}.pool", kernel_shape=_pair(record.kernel_size),
        strides=_pair(record.stride), pads=[top, left, top, left],
    )  # fmt: skip


def _upsample(graph: GraphWriter, record: Record, tensors: list[str], name: str) -> str:
    if record.mode != "nearest" or record.size is not None:
        raise UnknownBlockError(_unknown(record, name, detail=f" of mode {record.mode!r}"))
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


def _detect(
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
    bins, classes = _number(record, "reg_max"), _number(record, "nc")
    box_levels, class_levels, anchors = [], [], []
    for index, (tensor, stride) in enumerate(zip(levels, strides, strict=True)):
        rows, columns = imgsz_hw[0] // stride, imgsz_hw[1] // stride
        box = _emit(graph, record.cv2.children()[index], [tensor], f"{name}.cv2.{index}")
        logits = _emit(graph, record.cv3.children()[index], [tensor], f"{name}.cv3.{index}")
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


def _anchor_centres(rows: int, columns: int, stride: int) -> Array:
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
