"""What shapes say: a YOLOv8 head of any levels, or whose outputs these look like."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trt_yolo.artifacts.head_shapes import Shape, head_of_shapes
from trt_yolo.errors import UnsupportedModelError

_PICTURES = (1, 3, 640, 640)


@pytest.mark.parametrize(
    ("input_shape", "output", "wanted"),
    [
        pytest.param(_PICTURES, (1, 84, 8400), (80, 8400), id="yolov8"),
        pytest.param(_PICTURES, (1, 84, 34000), (80, 34000), id="p2"),
        pytest.param((1, 3, 1280, 1280), (1, 84, 34000), (80, 34000), id="p6"),
        pytest.param(_PICTURES, (1, 7, 8000), (3, 8000), id="two levels"),
        pytest.param(_PICTURES, (1, 5, 400), (1, 400), id="one level"),
        pytest.param(_PICTURES, (1, 84, 136000), (80, 136000), id="strides from 2"),
        pytest.param((1, 3, 48, 48), (1, 84, 45), (80, 45), id="two levels of a small one"),
        pytest.param(("n", 3, "h", "w"), ("n", 84, "a"), (80, "a"), id="dynamic"),
        pytest.param(_PICTURES, (1, "c", 8400), (10, 8400), id="classes by the names"),
    ],
)
def test_heads(input_shape: Shape, output: Shape, wanted: tuple[int, int | str]) -> None:
    assert head_of_shapes(input_shape, [output], names=10, origin="a.onnx") == wanted


@pytest.mark.parametrize(
    ("outputs", "likeness"),
    [
        ([(1, 1000)], "classifier"),
        ([(1, 116, 8400), (1, 32, 160, 160)], "segmentation"),
        ([(1, 25200, 85)], "YOLOv5"),
        ([(1, 3, 80, 80, 85), (1, 3, 40, 40, 85)], "YOLOv5"),
        ([(1, 144, 80, 80), (1, 144, 40, 40)], "raw levels"),
        ([(1, 300, 6)], "after NMS"),
        ([(100, 7)], "outputs"),
        ([(1, 300, 84)], "RT-DETR"),
        ([(1, 8400, 84)], "transposed"),
        ([(1, 84, 8399)], "outputs"),
        ([(1, 4, 8400)], "outputs"),
        ([()], "outputs"),
        ([], "outputs none"),
    ],
)
def test_other_outputs_are_named(outputs: Sequence[Shape], likeness: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"a\.onnx is no YOLOv8 .*{likeness}.*needed: input"):
        head_of_shapes(_PICTURES, outputs, names=0, origin="a.onnx")


@pytest.mark.parametrize(
    ("input_shape", "output", "line"),
    [
        ((1, 1, 640, 640), (1, 84, 8400), r"images of 1 channel;"),
        (_PICTURES, (1, "c", 8400), r"does not say how many classes it has.*\(1, c, 8400\)"),
    ],
)
def test_what_is_refused(input_shape: Shape, output: Shape, line: str) -> None:
    with pytest.raises(UnsupportedModelError, match=line):
        head_of_shapes(input_shape, [output], names=0, origin="a.onnx")
