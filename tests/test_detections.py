"""What comes out of a model: shapes, order, picking, and the two ways out of `Detections`."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo import Detections
from trt_yolo.errors import InputError

NAMES = {0: "cat", 1: "dog"}


@pytest.fixture
def three() -> Detections:
    return Detections(
        xyxy=np.array([[0, 0, 10, 10], [5.126, 5, 20, 20.5], [1, 2, 3, 4]], np.float32),
        confidence=np.array([0.9, 0.51237, 0.3], np.float32),
        class_id=np.array([0, 1, 7]),
        names=NAMES,
        image_hw=(30, 40),
    )


def _zeros(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("xyxy", "confidence", "class_id"),
    [
        pytest.param(_zeros(0), _zeros(0), _zeros(0), id="empty-without-columns"),
        pytest.param(_zeros(0, 5), _zeros(0), _zeros(0), id="empty-of-five-columns"),
        pytest.param(_zeros(4), _zeros(1), _zeros(1), id="one-flat-box"),
        pytest.param(_zeros(2, 5), _zeros(2), _zeros(2), id="five-columns"),
        pytest.param(_zeros(2, 1, 4), _zeros(2), _zeros(2), id="three-axes"),
        pytest.param(_zeros(), _zeros(), _zeros(), id="scalars"),
        pytest.param(_zeros(2, 4), _zeros(1), _zeros(2), id="a-confidence-missing"),
        pytest.param(_zeros(2, 4), _zeros(2), _zeros(3), id="a-class-too-many"),
        pytest.param(_zeros(2, 4), _zeros(2, 1), _zeros(2), id="confidence-as-column"),
        pytest.param(_zeros(2, 4), _zeros(2), _zeros(2, 1), id="class-as-column"),
        pytest.param(_zeros(0, 4), _zeros(1), _zeros(0), id="confidence-without-box"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(xyxy: Any, confidence: Any, class_id: Any) -> None:
    with pytest.raises(InputError, match="needed"):
        Detections(xyxy, confidence, class_id)


def test_empty_has_all_its_axes() -> None:
    empty = Detections.empty(names=NAMES, image_hw=(3, 4))
    assert len(empty) == 0
    assert (empty.xyxy.shape, empty.confidence.shape, empty.class_id.shape) == ((0, 4), (0,), (0,))
    assert (empty.xyxy.dtype, empty.confidence.dtype, empty.class_id.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )
    assert (empty.names, empty.image_hw) == (NAMES, (3, 4))
    assert list(empty) == empty.to_dicts() == []


def test_iterating_gives_box_confidence_class(three: Detections) -> None:
    boxes, confidences, class_ids = zip(*three, strict=True)
    np.testing.assert_array_equal(np.stack(boxes), three.xyxy)
    assert confidences == pytest.approx((0.9, 0.51237, 0.3))
    assert class_ids == (0, 1, 7)
    assert [type(value) for value in (confidences[0], class_ids[0])] == [float, int]


@pytest.mark.parametrize(
    ("index", "positions"),
    [
        pytest.param(slice(None, 2), [0, 1], id="slice"),
        pytest.param(slice(None, None, -1), [2, 1, 0], id="reversed"),
        pytest.param(slice(5, 9), [], id="slice-past-the-end"),
        pytest.param(np.array([True, False, True]), [0, 2], id="mask"),
        pytest.param(np.zeros(3, bool), [], id="mask-of-none"),
        pytest.param([2, 0], [2, 0], id="positions"),
        pytest.param(np.array([1]), [1], id="array-of-positions"),
        pytest.param([], [], id="no-positions"),
        pytest.param([-1, 0], [2, 0], id="from-the-end"),
        pytest.param([True, False, False], [0], id="list-of-booleans"),
        pytest.param(range(1, 3), [1, 2], id="range"),
        pytest.param(0, [0], id="first"),
        pytest.param(-1, [2], id="last"),
        pytest.param(np.int64(1), [1], id="numpy-integer"),
        pytest.param(np.uint8(2), [2], id="unsigned"),
        pytest.param(np.array(1), [1], id="array-without-axes"),
    ],
)
def test_indexing_picks_the_same_of_every_field(three: Detections, index: Any, positions: list[int]) -> None:
    picked = three[index]
    assert picked.xyxy.shape == (len(positions), 4)
    assert picked.class_id.tolist() == [[0, 1, 7][position] for position in positions]
    np.testing.assert_array_equal(picked.xyxy, three.xyxy[np.array(positions, int)])
    np.testing.assert_array_equal(picked.confidence, three.confidence[np.array(positions, int)])
    assert (picked.names, picked.image_hw) == (three.names, three.image_hw)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        pytest.param(3, IndexError, "no detection 3: there are 3", id="past-the-end"),
        pytest.param(-4, IndexError, "no detection -4: there are 3", id="before-the-start"),
        pytest.param([0, 9], IndexError, "no detection 9: there are 3", id="a-position-past-the-end"),
        pytest.param(np.ones(2, bool), IndexError, "a mask of 2 for 3 detections", id="mask-too-short"),
        pytest.param(np.ones(4, bool), IndexError, "a mask of 4 for 3 detections", id="mask-too-long"),
        pytest.param("x", TypeError, r"detections\['x'\]: give a position", id="text"),
        pytest.param(None, TypeError, "give a position", id="none"),
        pytest.param(True, TypeError, "give a position", id="boolean"),
        pytest.param(1.0, TypeError, "give a position", id="float"),
        pytest.param(np.zeros(3), TypeError, "give a position", id="floats"),
        pytest.param((0, 1), TypeError, "give a position", id="two-axes"),
        pytest.param([[0], [1, 2]], TypeError, "give a position", id="ragged"),
        pytest.param(np.ones((3, 4), bool), TypeError, "give a position", id="mask-of-boxes"),
        pytest.param(["a"] * 100_000, TypeError, "give a position", id="long"),
    ],
)
def test_what_picks_no_rows_is_refused_in_one_line(
    three: Detections, index: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        _ = three[index]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("index", "count"),
    [(slice(None), 0), ([], 0), (np.zeros(0, bool), 0), (np.array([]), 0), (0, None), (-1, None)],
    ids=str,
)
def test_picking_from_nothing(index: Any, count: int | None) -> None:
    empty = Detections.empty(names=NAMES, image_hw=(3, 4))
    if count is None:
        with pytest.raises(IndexError, match="there are 0"):
            _ = empty[index]
    else:
        assert empty[index].xyxy.shape == (0, 4)
        assert (empty[index].names, empty[index].image_hw) == (NAMES, (3, 4))


@pytest.mark.parametrize(
    "index",
    [0, -1, slice(0, 2), slice(None, None, -1), [2, 0], np.array([True, False, True]), np.array([1])],
    ids=str,
)
def test_picking_is_as_in_supervision(three: Detections, index: Any) -> None:
    theirs = three.to_supervision()[index]
    assert isinstance(theirs, type(three.to_supervision()))
    np.testing.assert_array_equal(three[index].xyxy, theirs.xyxy)
    np.testing.assert_array_equal(three[index].class_id, np.asarray(theirs.class_id))


def test_rows_one_by_one_are_all_of_it(three: Detections) -> None:
    rows = [three[number] for number in range(len(three))]
    assert [len(row) for row in rows] == [1, 1, 1]
    assert [row.to_dicts()[0] for row in rows] == three.to_dicts()


def _of_classes(
    *class_ids: int, names: dict[int, str] | None = None, hw: tuple[int, int] = (0, 0)
) -> Detections:
    count = len(class_ids)
    return Detections(_zeros(count, 4), _zeros(count), np.array(class_ids, np.int64), names or NAMES, hw)


@pytest.mark.parametrize(
    ("detections", "wanted"),
    [
        (_of_classes(hw=(30, 40)), "Detections(0; 30x40)"),
        (_of_classes(), "Detections(0)"),
        (_of_classes(1, hw=(30, 40)), "Detections(1: 1 dog; 30x40)"),
        (_of_classes(0, 1, 1, 7, hw=(1080, 1920)), "Detections(4: 2 dog, 1 cat, 1 class 7; 1080x1920)"),
        (
            _of_classes(1, 1, *range(80), names={one: f"class{one}" for one in range(80)}),
            "Detections(82: 3 class1, 1 class0, 1 class2, 1 class3, 1 class4, 75 more classes)",
        ),
        (_of_classes(0, names={0: "x" * 500}), f"Detections(1: 1 {'x' * 30})"),
    ],
    ids=["none", "nothing", "one", "several", "many-classes", "long-name"],
)
def test_repr_fits_a_screen(detections: Detections, wanted: str) -> None:
    assert repr(detections) == wanted


@pytest.mark.parametrize("picked", [slice(None), 1, slice(0, 0)], ids=str)
def test_detections_pickle(three: Detections, picked: Any) -> None:
    given = three[picked]
    read = pickle.loads(pickle.dumps(given))
    for name in ("xyxy", "confidence", "class_id"):
        np.testing.assert_array_equal(getattr(read, name), getattr(given, name))
        assert getattr(read, name).dtype == getattr(given, name).dtype
    assert (read.names, read.image_hw) == (given.names, given.image_hw)


def test_to_dicts_gives_plain_rounded_values(three: Detections) -> None:
    dicts = three.to_dicts()
    assert dicts[1] == {"xyxy": [5.13, 5.0, 20.0, 20.5], "confidence": 0.5124, "class_id": 1, "name": "dog"}
    assert json.loads(json.dumps(dicts)) == dicts


def test_a_class_without_a_name_is_its_number(three: Detections) -> None:
    assert [three.name(class_id) for class_id in (0, 1, 7)] == ["cat", "dog", "7"]
    assert three.to_dicts()[2]["name"] == "7"


def test_to_supervision_holds_the_same_and_shares_no_memory(three: Detections) -> None:
    other = three.to_supervision()
    np.testing.assert_array_equal(other.xyxy, three.xyxy)
    np.testing.assert_array_equal(other.confidence, three.confidence)
    np.testing.assert_array_equal(other.class_id, three.class_id)
    assert other.data["class_name"].tolist() == ["cat", "dog", "7"]
    other.xyxy[:] = 0
    assert three.xyxy[0, 2] == 10


def test_to_supervision_of_nothing_is_empty_and_its_names_are_text() -> None:
    other = Detections.empty(names=NAMES).to_supervision()
    assert other.is_empty()
    assert other.xyxy.shape == (0, 4)
    assert other.data["class_name"].dtype.kind == "U"
