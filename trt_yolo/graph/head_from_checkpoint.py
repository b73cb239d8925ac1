"""The head graph of a YOLOv8 detection checkpoint, written without torch and without Ultralytics.

Enters: the records of `checkpoint.read_checkpoint`. Leaves: an ONNX model with input `images`, float32
(N, 3, H, W) RGB of 0 to 1, and output `output0`, float32 (N, 4 + classes, anchors): cx cy w h in pixels,
then a score for each class. The same as Ultralytics' own export, metadata included.
Does not know: letterbox, NMS, precision, and how a block is written (`blocks.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trt_yolo.artifacts.class_names import class_names
from trt_yolo.artifacts.manifest import MAX_CLASSES
from trt_yolo.artifacts.shapes import MAX_SIDE, BatchRange, anchor_count, check_channels
from trt_yolo.errors import CheckpointError, InputError, UnsupportedModelError
from trt_yolo.graph.blocks import (
    UnknownBlockError,
    check_members,
    emit_block,
    emit_detect,
    number_of,
    unknown_block,
)
from trt_yolo.graph.checkpoint import read_checkpoint
from trt_yolo.graph.records import Record, shown
from trt_yolo.graph.writer import DEFAULT_OPSET, FLOAT, GraphWriter, value_info

# Heads of other tasks and families, which no exporter can turn into a graph that runs here; YOLO26's end in 26.
_TASKS = {
    "Segment": "a segmentation",
    "SemanticSegment": "a segmentation",
    "YOLOESegment": "a segmentation",
    "Pose": "a pose",
    "OBB": "an oriented-box",
    "Classify": "a classification",
    "Depth": "a depth",
    "RTDETRDecoder": "an RT-DETR",
}
_MAX_DEPTH = 20  # of the first convolution; a module that holds itself has no end


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
        return anchor_count(imgsz_hw, self.strides)


def checkpoint_from_file(path: Path) -> Checkpoint:
    """The detection model inside a `.pt` file.

    Raises:
        CheckpointError: Damaged, or no YOLO model inside.
        UnsupportedModelError: A model of another task, or of another architecture.
    """
    content = read_checkpoint(path)
    model = model_of(content)
    layers = _layers(path, content)
    _check_native(layers[-1])
    with _sound_structure():
        strides = _strides(layers[-1])
        classes = number_of(layers[-1], "nc")
        if not 1 <= classes <= MAX_CLASSES:
            raise ValueError(f"{classes} classes")
    names = class_names(model.get("names"), classes=classes, origin=str(path))
    return Checkpoint(layers=layers, names=names, strides=strides, imgsz=_trained_imgsz(content))


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
    check_imgsz(imgsz_hw, stride=largest)
    graph = GraphWriter(opset=opset)
    outputs: list[str] = []
    tensor = "images"
    with _sound_structure():
        for index, layer in enumerate(checkpoint.layers[:-1]):
            tensor = emit_block(graph, layer, _sources(layer, tensor, outputs), f"model.{index}")
            outputs.append(tensor)
        detect = checkpoint.layers[-1]
        levels = _sources(detect, tensor, outputs)
        emit_detect(graph, detect, levels, checkpoint.strides, imgsz_hw, f"model.{len(outputs)}")
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


def check_imgsz(imgsz_hw: tuple[int, int], *, stride: int) -> None:
    """Refuses an image size, in pixels, that the model's largest stride does not divide.

    Raises:
        InputError: It does not.
    """
    if any(side % stride for side in imgsz_hw):
        height, width = imgsz_hw
        raise InputError(
            f"image size {height}x{width} does not fit this model: both sides must be multiples of {stride}; "
            f"try {_round_up(height, stride)}x{_round_up(width, stride)}"
        )


def trained_imgsz_and_stride(path: Path) -> tuple[int, int]:
    """The image size that a checkpoint of any architecture was trained on, and its largest stride, in pixels.

    Raises:
        CheckpointError: Damaged, or its pickle names code that is not on the allow-list.
        UnsupportedModelError: A model of another task, or for pictures of other than three channels.
    """
    content = read_checkpoint(path)
    head = _layers(path, content)[-1]
    with _sound_structure():
        return _trained_imgsz(content), max(_strides(head))


def model_of(content: Any) -> Any:
    """The pickled model: the averaged weights (`ema`) where they are kept beside the trained ones."""
    model = content
    if isinstance(content, dict):
        model = content.get("ema") if isinstance(content.get("ema"), Record) else content.get("model")
    wrapped = model.get("module") if isinstance(model, Record) else None  # by DataParallel
    return wrapped if isinstance(wrapped, Record) else model


@contextlib.contextmanager
def _sound_structure() -> Iterator[None]:
    """Turns what a walk over nonsense raises into one error; records hold whatever the file said."""
    try:
        yield
    except (
        TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"the checkpoint's structure is damaged ({type(error).__name__}: {str(error)[:200]}); "
            "copy or download it again, or save it again with Ultralytics"
        ) from error


def _layers(path: Path, content: Any) -> list[Record]:
    """The layers of a detection model; the last one is its head."""
    model = model_of(content)
    if not isinstance(model, Record) or not isinstance(model.get("model"), Record):
        raise CheckpointError(_no_model(path, content))
    layers = [layer for layer in model.model.children() if isinstance(layer, Record)]
    if not layers:
        raise CheckpointError(f"{path} holds a model without layers; save it again with Ultralytics")
    head = layers[-1]
    if task := _TASKS.get(head.class_name.removesuffix("26")):
        raise UnsupportedModelError(
            f"{path} is {task} model; this version of trt-yolo exports YOLO detection models, "
            "such as yolov8n.pt"
        )
    if head.get("one2one_cv2") is not None and head.get("cv2") is None:
        raise UnsupportedModelError(
            f"{path} is end-to-end and was fused, which removed the head that is exported here (one-to-many); "
            "give the checkpoint as training saved it"
        )
    check_channels(_channels(layers[0]), origin=str(path))
    return layers


def _strides(head: Record) -> tuple[int, ...]:
    strides = tuple(int(stride) for stride in np.asarray(head.stride).ravel())
    if not strides or min(strides) < 1:
        raise ValueError(f"strides {strides}")
    return strides


def _no_model(path: Path, content: Any) -> str:
    """What a file is that holds no model."""
    held = [content, *(content.values() if isinstance(content, dict) else ())]
    for weights in held:
        key = next(iter(weights), None) if isinstance(weights, dict) else None
        if isinstance(key, str) and isinstance(weights[key], np.ndarray):
            return (
                f"{path} holds no YOLO model, only weights (a state_dict that begins with {shown(key)}); "
                "save the whole checkpoint with Ultralytics, such as best.pt, or give an ONNX export of the model"
            )
    return f"{path} holds no YOLO model; give a checkpoint as Ultralytics saves it, such as best.pt"


def _channels(layer: Record) -> int | str:
    """Channels that the first convolution reads."""
    record = layer
    for _ in range(_MAX_DEPTH):
        members = record.children()
        if record.class_name == "Focus" or not members or not isinstance(members[0], Record):
            break  # Focus gives its convolution four times the channels
        record = members[0]
    weight, groups = record.get("weight"), record.get("groups")
    if not isinstance(weight, np.ndarray) or weight.ndim != 4 or not isinstance(groups, int):
        return "unknown"
    return int(weight.shape[1] * groups)


def _check_native(head: Record) -> None:
    if head.class_name != "Detect":
        raise UnknownBlockError(unknown_block(head, "the last layer"))
    if head.get("one2one_cv2") is not None or number_of(head, "reg_max") == 1:
        raise UnknownBlockError(unknown_block(head, "the last layer", detail=" in its end-to-end form"))
    check_members(head, "the last layer")


def _trained_imgsz(content: Any) -> int:
    """The image size among the training arguments; 640 where they do not say."""
    model = model_of(content)
    candidates = [content.get("train_args")] if isinstance(content, dict) else []
    for arguments in (*candidates, model.get("args") if isinstance(model, Record) else None):
        size = arguments.get("imgsz") if isinstance(arguments, dict | Record) else None
        if isinstance(size, int):
            if not 0 < size <= MAX_SIDE:
                raise CheckpointError(
                    "the checkpoint says that it was trained on images of an impossible size"
                )
            return size
    return 640


def _round_up(value: int, multiple: int) -> int:
    return max(multiple, -(-value // multiple) * multiple)


def _sources(layer: Record, previous: str, outputs: list[str]) -> list[str]:
    """The tensors that a layer reads: -1 is the one before it, other numbers are layers."""
    wanted = layer.f if isinstance(layer.f, list | tuple) else [layer.f]
    try:
        return [previous if index == -1 else outputs[index] for index in wanted]
    except (IndexError, TypeError):
        raise CheckpointError(
            f"the checkpoint's layer {len(outputs)} reads from what is no layer; save it again"
        ) from None
