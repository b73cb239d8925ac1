"""Detections on an image: where there is ink, and whose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo import Detections
from trt_yolo.vision.drawing import class_colour, draw_detections


def _detections(
    *boxes: tuple[float, float, float, float], class_id: list[int] | None = None, name: str = "cat"
) -> Detections:
    count = len(boxes)
    ids = np.array(class_id or [0] * count, np.int64)
    return Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.linspace(0.9, 0.5, count, dtype=np.float32),
        class_id=ids,
        names=dict.fromkeys(ids.tolist(), name),
    )


def _grey(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 128, np.uint8)


def _shows(pixel: npt.NDArray[np.uint8], class_id: int) -> bool:
    """Whether it has the class's colour; a smoothed line mixes in some ground."""
    return np.allclose(pixel, class_colour(class_id), atol=20)


def test_the_box_is_drawn_in_its_class_colour_on_a_copy() -> None:
    image = _grey(200, 300)
    drawn = draw_detections(image, _detections((50, 60, 150, 160), class_id=[3]))
    for y, x in ((160, 100), (120, 50), (120, 150)):
        assert _shows(drawn[y, x], 3)
    assert (drawn[100:120, 90:110] == 128).all(), "the inside stays visible"
    assert (image == 128).all(), "the image given is left as it was"


def test_no_detections_draw_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    drawn = draw_detections(image, Detections.empty())
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_the_best_detection_is_on_top() -> None:
    box = (50, 60, 150, 160)
    drawn = draw_detections(_grey(200, 200), _detections(box, box, class_id=[1, 2]))
    assert _shows(drawn[160, 100], 1)
    assert not _shows(drawn[160, 100], 2)


@pytest.mark.parametrize(
    ("y1", "rows"),
    [
        pytest.param(100, slice(80, 99), id="above-the-box"),
        pytest.param(0, slice(2, 14), id="below-the-upper-edge"),
    ],
)
def test_the_label_is_beside_the_corner(y1: int, rows: slice) -> None:
    drawn = draw_detections(_grey(200, 200), _detections((50, y1, 150, 180)))
    label = drawn[rows, 52:90].reshape(-1, 3)
    assert (label == class_colour(0)).all(axis=1).any(), "the label's ground"
    others = {tuple(pixel) for pixel in label.tolist()} - {class_colour(0), (128, 128, 128)}
    assert others, "the label's letters"


def test_a_label_at_the_right_edge_is_moved_inside() -> None:
    at_edge = draw_detections(_grey(100, 200), _detections((195, 50, 199, 90)))
    assert (at_edge[30:49, 100:190] != 128).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (8, 8)])
@pytest.mark.parametrize("box", [(0, 0, 1, 1), (-50, -50, 900, 900), (3, 3, 3, 3)])
def test_images_smaller_than_a_label_keep_their_shape(
    shape: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    drawn = draw_detections(_grey(*shape), _detections(box))
    assert (drawn.shape, drawn.dtype) == ((*shape, 3), np.uint8)


@pytest.mark.parametrize("name", ["", "日本", "naïve", "a\nb", "x" * 500])
def test_any_name_can_be_drawn(name: str) -> None:
    drawn = draw_detections(_grey(100, 100), _detections((10, 40, 60, 90), name=name))
    assert (drawn != 128).any()


def test_views_are_drawn_as_their_copies() -> None:
    view = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)[::-1, ::2, ::-1]
    found = _detections((10, 30, 50, 80))
    np.testing.assert_array_equal(
        draw_detections(view, found), draw_detections(np.ascontiguousarray(view), found)
    )


def test_colours_of_80_classes_are_bytes_and_all_differ() -> None:
    colours = np.array([class_colour(class_id) for class_id in range(80)])
    assert colours.min() >= 0
    assert colours.max() <= 255
    assert len(np.unique(colours, axis=0)) == 80
    steps = np.abs(np.diff(colours, axis=0)).sum(axis=1)
    assert steps.min() > 100, "neighbours are told apart"
