"""Which boxes of two sets are the same objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo.vision.agreement import iou_matrix, matched_pairs

Box = tuple[float, float, float, float]

A = (0, 0, 10, 10)


def _boxes(*boxes: Box) -> npt.NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        pytest.param(A, 1.0, id="same"),
        pytest.param((0, 0, 5, 10), 0.5, id="half"),
        pytest.param((5, 0, 15, 10), 1 / 3, id="shifted"),
        pytest.param((2, 2, 4, 4), 0.04, id="inside"),
        pytest.param((10, 0, 20, 10), 0.0, id="touching"),
        pytest.param((20, 20, 30, 30), 0.0, id="apart"),
        pytest.param((5, 5, 5, 5), 0.0, id="point"),
    ],
)
def test_iou_by_hand(other: Box, wanted: float) -> None:
    assert iou_matrix(_boxes(A), _boxes(other))[0, 0] == pytest.approx(wanted)
    assert iou_matrix(_boxes(other), _boxes(A))[0, 0] == pytest.approx(wanted)


def test_iou_of_points_is_a_number() -> None:
    assert iou_matrix(_boxes((1, 1, 1, 1)), _boxes((1, 1, 1, 1)))[0, 0] == 0


def test_iou_matrix_is_that_of_torchvision() -> None:
    import torch
    from torchvision.ops import box_iou

    rng = np.random.default_rng(0)
    first, second = (
        np.sort(rng.uniform(0, 100, (count, 2, 2)), axis=1).reshape(-1, 4).astype(np.float32)
        for count in (30, 20)
    )
    wanted = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert (wanted > 0).sum() > 50
    np.testing.assert_allclose(iou_matrix(first, second), wanted, atol=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_matches_nothing(first: int, second: int) -> None:
    a, b = _boxes(*[A] * first), _boxes(*[A] * second)
    assert iou_matrix(a, b).shape == (first, second)
    assert matched_pairs(a, np.zeros(first, int), b, np.zeros(second, int), iou=0.0) == []


@pytest.mark.parametrize(
    ("a", "a_class", "b", "b_class", "iou", "wanted"),
    [
        pytest.param([A], [0], [A], [0], 1.0, [(0, 0)], id="same"),
        pytest.param([A], [0], [A], [1], 0.5, [], id="another-class"),
        pytest.param([A], [0], [(0, 0, 5, 10)], [0], 0.5, [(0, 0)], id="exactly-the-limit"),
        pytest.param([A], [0], [(0, 0, 5, 10)], [0], 0.51, [], id="below-the-limit"),
        pytest.param([A, A], [0, 0], [A], [0], 0.5, [(0, 0)], id="one-to-one"),
        pytest.param(
            [(0, 0, 9, 10), A], [0, 0], [A, (0, 0, 8, 10)], [0, 0], 0.5, [(1, 0), (0, 1)], id="closest-first"
        ),
        pytest.param([A, A], [0, 1], [A, A], [1, 0], 0.9, [(0, 1), (1, 0)], id="classes-crossed"),
    ],
)
def test_matched_pairs_by_hand(
    a: list[Box],
    a_class: list[int],
    b: list[Box],
    b_class: list[int],
    iou: float,
    wanted: list[tuple[int, int]],
) -> None:
    got = matched_pairs(_boxes(*a), np.array(a_class), _boxes(*b), np.array(b_class), iou=iou)
    assert got == wanted
