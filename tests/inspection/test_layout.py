"""Layout: boxes apart from each other, edges downward, whatever the graph."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_yolo.inspection.layout import Layout, layout_of

Size = tuple[float, float]
Edges = list[tuple[int, int]]

sizes_and_edges = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.lists(st.tuples(st.floats(1, 300), st.floats(1, 80)), min_size=count, max_size=count),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30),
    )
)


def _assert_apart(layout: Layout, sizes: list[Size]) -> None:
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(layout.places, sizes, strict=True)]
    for one, other in itertools.combinations(boxes, 2):
        beside = one[2] <= other[0] + 0.01 or other[2] <= one[0] + 0.01
        above = one[3] <= other[1] + 0.01 or other[3] <= one[1] + 0.01
        assert beside or above, (one, other)
    for left, top, right, bottom in boxes:
        assert left >= -0.01
        assert top >= -0.01
        assert right <= layout.width + 0.01
        assert bottom <= layout.height + 0.01


def _assert_downward(layout: Layout, sizes: list[Size], edges: Edges, *, drawn: bool = False) -> None:
    assert len(layout.routes) == len(edges)
    for (upper, lower), route in zip(edges, layout.routes, strict=True):
        assert route or not drawn
        if not route:
            continue
        assert all(one[1] <= other[1] for one, other in itertools.pairwise(route)), route
        (x, y), (width, height) = layout.places[upper], sizes[upper]
        assert route[0] == pytest.approx((x + width / 2, y + height))
        assert route[-1] == pytest.approx(
            (layout.places[lower][0] + sizes[lower][0] / 2, layout.places[lower][1])
        )
        assert route[0][1] < route[-1][1]


@settings(max_examples=200, deadline=None)
@given(sizes_and_edges)
def test_any_graph_has_its_boxes_apart_and_its_edges_downward(drawn: tuple[list[Size], Edges]) -> None:
    sizes, edges = drawn
    layout = layout_of(sizes, edges)
    _assert_apart(layout, sizes)
    _assert_downward(layout, sizes, edges)


@settings(max_examples=100, deadline=None)
@given(sizes_and_edges)
def test_every_edge_of_a_graph_without_circles_is_drawn(drawn: tuple[list[Size], Edges]) -> None:
    sizes, edges = drawn
    edges = [(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]]
    _assert_downward(layout_of(sizes, edges), sizes, edges, drawn=True)


def test_nothing_takes_no_place() -> None:
    assert layout_of([], []) == Layout(places=[], routes=[], width=0.0, height=0.0)


def test_a_circle_is_drawn_but_for_the_edge_that_closes_it() -> None:
    sizes = [(10.0, 10.0)] * 3
    routes = layout_of(sizes, [(0, 1), (1, 2), (2, 0), (1, 1)]).routes
    assert [bool(route) for route in routes] == [True, True, False, False]


def test_a_chain_is_one_straight_line() -> None:
    layout = layout_of([(50.0, 20.0), (90.0, 20.0), (30.0, 20.0)], [(0, 1), (1, 2)])
    middles = [x + width / 2 for (x, _), width in zip(layout.places, (50, 90, 30), strict=True)]
    assert middles == pytest.approx([45.0] * 3)


def test_a_long_edge_passes_beside_the_boxes_between() -> None:
    sizes = [(100.0, 20.0)] * 5
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]
    layout = layout_of(sizes, edges)
    for (x, y), (width, height) in list(zip(layout.places, sizes, strict=True))[1:4]:
        passing = [px for px, py in layout.routes[-1] if y <= py <= y + height]
        assert passing
        assert all(px < x or px > x + width for px in passing)


def test_a_box_with_nothing_above_stands_right_above_its_first_reader() -> None:
    layout = layout_of([(10.0, 10.0)] * 5, [(0, 1), (1, 2), (2, 3), (4, 3)])
    assert layout.places[4][1] == layout.places[2][1]


def test_a_tangle_that_needs_too_many_lanes_is_drawn_all_the_same() -> None:
    count, chance = 600, random.Random(0)
    edges = [(one, one + 1) for one in range(count - 1)]
    edges += [(chance.randrange(one), one) for one in range(1, count)]
    sizes = [(100.0, 30.0)] * count
    layout = layout_of(sizes, edges)
    _assert_downward(layout, sizes, edges, drawn=True)
    _assert_apart(layout, sizes)
