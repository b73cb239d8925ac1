"""Whether a model is a YOLOv8 detection head, by the shapes of its input and outputs; else what it looks like.

Enters: shapes, as numbers, and names where a side is dynamic. Leaves: the head's class count and anchors, or an
error that names the family with such outputs. Knows no files.
"""

from __future__ import annotations

from collections.abc import Sequence

from trt_yolo.artifacts.shapes import check_channels, strides_of_anchors
from trt_yolo.errors import UnsupportedModelError

Shape = Sequence[int | str]

_ROW_FIELDS = (6, 7)  # x1 y1 x2 y2 score class, and the image's number before them
_BOXES_OF_A_CELL = 3  # of YOLOv5 and YOLOv7
_QUERIES = (300, 900)  # of RT-DETR and its kin


def known(side: int | str | None) -> int | str:
    """A side as it counts: 0, -1 and None, as some tools write it, are dynamic like a name."""
    return side if isinstance(side, int) and side > 0 else side if isinstance(side, str) else ""


def head_of_shapes(
    input_shape: Shape, output_shapes: Sequence[Shape], *, names: int, origin: str
) -> tuple[int, int | str]:
    """The class count and the anchors (a text where dynamic) of a YOLOv8 detection head.

    Args:
        input_shape: (N, 3, H, W).
        output_shapes: Of every output; a detection model has one, (N, 4 + classes, anchors).
        names: How many class names the model has, for a graph that does not say its class count; 0 where none.
        origin: The file's name, for errors.

    Raises:
        UnsupportedModelError: It is no such head, or takes images of other than three channels.
    """
    is_single = [len(shape) for shape in output_shapes] == [3]
    fields, anchors = output_shapes[0][1:] if is_single else ("", "")
    classes = fields - 4 if isinstance(fields, int) else names
    fits = len(input_shape) == 4 and is_single and _anchors_fit(input_shape[2:], anchors)
    if not fits or (isinstance(fields, int) and classes < 1):
        raise UnsupportedModelError(_no_head(input_shape, output_shapes, origin))
    check_channels(input_shape[1], origin=origin)
    if classes < 1:
        raise UnsupportedModelError(
            f"{origin} does not say how many classes it has: neither its output {_text(output_shapes[0])} nor its "
            "metadata; export it again with fixed sizes (Ultralytics: dynamic=False), or give the .pt"
        )
    return classes, anchors


def _anchors_fit(size: Shape, anchors: int | str) -> bool:
    """Whether levels of some strides have so many anchors together."""
    if anchors in _ROW_FIELDS:
        return False
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(anchors, int)):
        return True
    return strides_of_anchors((height, width), anchors) is not None


def _no_head(input_shape: Shape, output_shapes: Sequence[Shape], origin: str) -> str:
    outputs = ", ".join(_text(shape) for shape in output_shapes) or "none"
    likeness = _likeness(input_shape, output_shapes)
    return (
        f"{origin} is no YOLOv8 detection model: input {_text(input_shape)}, outputs {outputs}"
        f"{f', which looks like {likeness}' if likeness else ''}; "
        "needed: input (N, 3, H, W) and one output (N, 4 + classes, anchors), "
        "as Ultralytics exports it without NMS and without an end-to-end head"
    )


def _text(shape: Shape) -> str:
    return f"({', '.join(str(side) or '?' for side in shape)})"


def _likeness(input_shape: Shape, output_shapes: Sequence[Shape]) -> str:
    """What has such outputs; empty where they are not recognized."""
    ranks = [len(shape) for shape in output_shapes]
    if ranks == [2]:
        return "a classifier"
    if ranks == [3, 4]:
        return "a segmentation model"
    if 5 in ranks:
        return "YOLOv5 or YOLOv7"
    if len(ranks) > 1 and set(ranks) == {4}:
        return "the raw levels of a head, before boxes are decoded"
    if ranks == [3] and len(input_shape) == 4:
        return _likeness_of_rows(input_shape[2:], *output_shapes[0][1:])
    return ""


def _likeness_of_rows(size: Shape, rows: int | str, fields: int | str) -> str:
    """Of one output (N, rows, fields)."""
    if fields in _ROW_FIELDS:
        return "detections after NMS or of an end-to-end head"
    if rows in _QUERIES:
        return "RT-DETR"
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(rows, int)):
        return ""
    if strides_of_anchors((height, width), rows) is not None:
        return "a transposed YOLOv8 head, or YOLOX"
    cells, rest = divmod(rows, _BOXES_OF_A_CELL)
    if not rest and strides_of_anchors((height, width), cells) is not None:
        return "YOLOv5 or YOLOv7"
    return ""
