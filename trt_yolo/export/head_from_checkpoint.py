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

from trt_yolo.errors import CheckpointError, InputError, UnsupportedModelError
from trt_yolo.export.blocks import UnknownBlockError, emit_block, emit_detect, number_of, unknown_block
from trt_yolo.export.checkpoint import Record, read_checkpoint
from trt_yolo.export.graph import DEFAULT_OPSET, FLOAT, GraphWriter, value_info
from trt_yolo.manifest import MAX_CLASSES
from trt_yolo.shapes import MAX_SIDE, BatchRange, anchor_count

_TASKS = {
    "Segment": "segmentation",
    "Pose": "pose",
    "OBB": "oriented-box",
    "Classify": "classification",
    "RTDETRDecoder": "RT-DETR",
    "v10Detect": "YOLOv10",
    "WorldDetect": "YOLO-World",
}


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
    with _sound_structure():
        strides = tuple(int(stride) for stride in np.asarray(layers[-1].stride).ravel())
        if not strides or min(strides) < 1:
            raise ValueError(f"strides {strides}")
        classes = number_of(layers[-1], "nc")
        if not 1 <= classes <= MAX_CLASSES:
            raise ValueError(f"{classes} classes")
        names = _names(model, classes)
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
    if any(side % largest for side in imgsz_hw):
        height, width = imgsz_hw
        raise InputError(
            f"image size {height}x{width} does not fit this model: both sides must be multiples of {largest}; "
            f"try {_round_up(height, largest)}x{_round_up(width, largest)}"
        )
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


def trained_imgsz(path: Path) -> int:
    """The image size, in pixels, that the checkpoint of any architecture was trained on.

    Raises:
        CheckpointError: Damaged, or its pickle names code that is not on the allow-list.
    """
    return _trained_imgsz(read_checkpoint(path))


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
        raise UnknownBlockError(unknown_block(head, "the last layer"))
    if head.get("one2one_cv2") is not None or number_of(head, "reg_max") == 1:
        raise UnknownBlockError(unknown_block(head, "the last layer", detail=" in its end-to-end form"))


def _names(model: Record, classes: int) -> dict[int, str]:
    """Class names by class id; numbered ones where the checkpoint has none."""
    names = model.get("names")
    if names is None:
        return {index: f"class{index}" for index in range(classes)}
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or sorted(names) != list(range(classes)):
        raise ValueError(f"names that do not fit {classes} classes")
    if not all(isinstance(name, str | int) for name in names.values()):
        raise TypeError("names that are no texts")
    return {index: str(names[index]) for index in range(classes)}


def _trained_imgsz(content: Any) -> int:
    """The image size among the training arguments; 640 where they do not say."""
    model = _model(content)
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
