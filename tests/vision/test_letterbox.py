"""The letterbox, pixel for pixel what Ultralytics makes, and the way back for boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_yolo.vision.letterbox import PADDING, Letterbox, boxes_to_source, fit_letterbox, letterbox_into

SQUARE, WIDE, TALL = (640, 640), (384, 640), (256, 96)
SIZES = [
    pytest.param(source, target, id=f"{source[0]}x{source[1]}-in-{target[0]}x{target[1]}")
    for source, target in [
        ((480, 640), SQUARE),
        ((640, 480), SQUARE),
        ((640, 640), SQUARE),
        ((427, 640), SQUARE),
        ((333, 500), SQUARE),
        ((1080, 1920), SQUARE),
        ((31, 17), SQUARE),
        ((639, 641), SQUARE),
        ((1, 1), SQUARE),
        ((1, 2), SQUARE),
        ((20000, 10), SQUARE),
        ((10, 20000), SQUARE),
        ((1, 5000), SQUARE),
        ((480, 640), WIDE),
        ((720, 1280), WIDE),
        ((384, 640), WIDE),
        ((501, 333), WIDE),
        ((480, 640), TALL),
        ((257, 97), TALL),
        ((20000, 10), TALL),
        ((10, 20000), WIDE),
    ]
]

Image = npt.NDArray[np.uint8]


def _noise(*shape: int) -> Image:
    return np.random.default_rng(shape).integers(0, 256, shape, np.uint8)


def _letterboxed(image: Image, target_hw: tuple[int, int]) -> Image:
    target = np.full((*target_hw, 3), 7, np.uint8)
    letterbox_into(image, target, fit_letterbox(image.shape[:2], target_hw))
    return target


def _of_ultralytics(image: Image, target_hw: tuple[int, int]) -> Image:
    from ultralytics.data.augment import LetterBox

    return LetterBox(target_hw, auto=False)(image=image)


@pytest.mark.parametrize(("source_hw", "target_hw"), SIZES)
def test_every_pixel_is_that_of_ultralytics(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> None:
    image = _noise(*source_hw, 3)
    np.testing.assert_array_equal(_letterboxed(image, target_hw), _of_ultralytics(image, target_hw))


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(np.s_[::2, ::3], id="every-other"),
        pytest.param(np.s_[10:90, 20:70], id="crop"),
        pytest.param(np.s_[::-1], id="upside-down"),
        pytest.param(np.s_[:, ::-1], id="mirrored"),
        pytest.param(np.s_[..., ::-1], id="channels-reversed"),
    ],
)
@pytest.mark.parametrize("target_hw", [(64, 64), (32, 96)])
def test_views_are_read_as_their_copies(view: Any, target_hw: tuple[int, int]) -> None:
    image = _noise(100, 100, 3)[view]
    copy = np.ascontiguousarray(image)
    np.testing.assert_array_equal(_letterboxed(image, target_hw), _letterboxed(copy, target_hw))


@pytest.mark.parametrize("source_hw", [(50, 80), (80, 50), (64, 64), (64, 20)])
def test_a_slot_of_a_batch_is_filled_and_its_neighbours_left_alone(source_hw: tuple[int, int]) -> None:
    frames = np.full((3, 64, 64, 3), 7, np.uint8)
    image = _noise(*source_hw, 3)
    letterbox_into(image, frames[1], fit_letterbox(source_hw, (64, 64)))
    np.testing.assert_array_equal(frames[1], _letterboxed(image, (64, 64)))
    assert (frames[[0, 2]] == 7).all()


def test_geometry_of_a_known_case() -> None:
    assert fit_letterbox((480, 640), (640, 640)) == Letterbox(
        source_hw=(480, 640), target_hw=(640, 640), resized_hw=(480, 640), top=80, left=0
    )


def test_what_is_left_over_is_grey_and_an_odd_row_goes_below() -> None:
    image = np.zeros((427, 640, 3), np.uint8)
    rows = (_letterboxed(image, SQUARE) == PADDING).all(axis=(1, 2))
    assert (rows[:106].all(), rows[106:533].any(), rows[533:].all()) == (True, False, True)


sides = st.integers(1, 4000)
targets = st.integers(1, 40).map(lambda count: count * 32)
unit = st.floats(0, 1, width=32)


@settings(deadline=None)
@given(height=sides, width=sides, target_hw=st.tuples(targets, targets))
def test_any_size_fits_inside_and_touches_two_sides(
    height: int, width: int, target_hw: tuple[int, int]
) -> None:
    letterbox = fit_letterbox((height, width), target_hw)
    free = np.subtract(target_hw, letterbox.resized_hw)
    assert (np.array(letterbox.resized_hw) >= 1).all()
    assert free.min() == 0
    margins = np.array([letterbox.top, letterbox.left])
    assert ((margins >= 0) & (free - margins - margins >= 0) & (free - margins - margins <= 1)).all()


@settings(deadline=None)
@given(
    height=sides, width=sides, target_hw=st.tuples(targets, targets), box=st.tuples(unit, unit, unit, unit)
)
def test_a_box_comes_back_to_where_it_was(
    height: int, width: int, target_hw: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    letterbox = fit_letterbox((height, width), target_hw)
    boxes = np.array([box]) * [width, height, width, height]
    stretch = np.divide(letterbox.resized_hw, letterbox.source_hw)[[1, 0, 1, 0]]
    there = boxes * stretch + [letterbox.left, letterbox.top] * 2
    back = boxes_to_source(there.astype(np.float32), letterbox)
    rounding = 1e-6 * max(*target_hw) / float(stretch.min())  # of float32 coordinates in the target
    np.testing.assert_allclose(back, boxes, rtol=1e-6, atol=rounding)


@pytest.mark.parametrize(("source_hw", "target_hw"), SIZES)
def test_boxes_are_where_ultralytics_puts_them(
    source_hw: tuple[int, int], target_hw: tuple[int, int]
) -> None:
    from ultralytics.utils.ops import scale_boxes

    letterbox = fit_letterbox(source_hw, target_hw)
    rng = np.random.default_rng(0)
    (height, width), (top, left) = letterbox.resized_hw, (letterbox.top, letterbox.left)
    inside = rng.uniform(-0.1, 1.1, (200, 4)) * [width, height, width, height]
    boxes = (inside + [left, top, left, top]).astype(np.float32)
    wanted = scale_boxes(target_hw, boxes.copy(), source_hw)
    np.testing.assert_allclose(boxes_to_source(boxes, letterbox), wanted, rtol=1e-5, atol=1e-3)


def test_boxes_are_clipped_to_the_source() -> None:
    letterbox = fit_letterbox((100, 200), (64, 64))
    boxes = np.array([[-50, -50, 500, 500]], np.float32)
    np.testing.assert_array_equal(boxes_to_source(boxes, letterbox), [[0, 0, 200, 100]])


def test_no_boxes_come_back_as_no_boxes() -> None:
    boxes = boxes_to_source(np.zeros((0, 4), np.float32), fit_letterbox((10, 20), (64, 64)))
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)


def test_boxes_given_are_left_as_they_were() -> None:
    boxes = np.array([[10, 10, 20, 20]], np.float32)
    boxes_to_source(boxes, fit_letterbox((10, 20), (64, 64)))
    np.testing.assert_array_equal(boxes, [[10, 10, 20, 20]])
