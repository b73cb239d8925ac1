"""Where the boxes of a graph stand: in ranks from top to bottom, edges between them without sharp turns.

Enters: sizes of boxes, and edges as pairs of their indices. Leaves: positions. Knows nothing of layers and drawing.

The steps are Sugiyama's: ranks by the longest path; edges over several ranks led through places of their own, one for
all edges of a box; order within a rank by the mean of the neighbours (barycenter); then places as near to the
neighbours' as the order allows, which is isotonic regression, solved exactly by pooling adjacent violators.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]

_GAP_X, _GAP_Y = 18.0, 34.0
_LANE = 8.0  # width of the place that an edge passes a rank by
_LANE_WEIGHT = 4.0  # how much more than boxes such places hold their line
_MOST_LANES = 20_000  # edges beyond that go straight, behind boxes: a graph of that kind is no picture
_ORDER_SWEEPS, _PLACE_SWEEPS = 8, 16


@dataclass(frozen=True)
class Layout:
    """A drawing.

    Attributes:
        places: (x, y) of the upper left corner of each box.
        routes: For each edge the points that it passes, downward, from the lower side of a box to the upper side of
            another; empty for an edge that closes a circle.
        width: Of everything.
        height: Of everything.
    """

    places: list[Point]
    routes: list[list[Point]]
    width: float
    height: float


@dataclass
class _Grid:
    """Boxes first, then lanes, by index.

    Attributes:
        boxes: How many of them are boxes.
        ranks: Indices in each rank, from left to right.
        lanes: The lane of a box in a rank below it.
    """

    boxes: int
    rank: list[int]
    width: list[float]
    above: list[list[int]]
    below: list[list[int]]
    ranks: list[list[int]] = field(default_factory=list)
    lanes: dict[tuple[int, int], int] = field(default_factory=dict)

    def add_lane(self, source: int, rank: int) -> int:
        index = len(self.rank)
        self.rank.append(rank)
        self.width.append(_LANE)
        self.above.append([])
        self.below.append([])
        self.lanes[source, rank] = index
        return index

    def link(self, upper: int, lower: int) -> None:
        self.below[upper].append(lower)
        self.above[lower].append(upper)


def layout_of(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Layout:
    """The drawing of a graph.

    Args:
        sizes: (width, height) of each box.
        edges: (from, to) of each edge, as indices of boxes. Circles are allowed; the edge that closes one is not drawn.
    """
    if not sizes:
        return Layout(places=[], routes=[[] for _ in edges], width=0.0, height=0.0)
    rank = _ranks(len(sizes), edges)
    grid = _grid([width for width, _ in sizes], edges, rank)
    _order(grid)
    centers = _centers(grid)
    tops, heights = _rows(grid, sizes)
    places = [
        (centers[box] - width / 2, tops[rank[box]] + (heights[rank[box]] - height) / 2)
        for box, (width, height) in enumerate(sizes)
    ]
    routes = [_route(grid, edge, sizes, places, centers, (tops, heights)) for edge in edges]
    right = max(x + width for (x, _), (width, _) in zip(places, sizes, strict=True))
    lanes = [centers[lane] + _LANE for lane in grid.lanes.values()]
    return Layout(places=places, routes=routes, width=max([right, *lanes]), height=tops[-1] + heights[-1])


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest path to each box; one with nothing above it stands right above the first that it leads to."""
    below: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for upper, lower in edges:
        if upper != lower:
            below[upper].append(lower)
            waits[lower] += 1
    rank, done = [0] * count, [False] * count
    is_source = [wait == 0 for wait in waits]
    ready = [box for box in range(count - 1, -1, -1) if is_source[box]]
    order: list[int] = []
    untouched = iter(range(count))
    while len(order) < count:
        box = ready.pop() if ready else next(one for one in untouched if not done[one])  # else: in a circle
        if done[box]:
            continue
        done[box] = True
        order.append(box)
        for lower in below[box]:
            waits[lower] -= 1
            if not done[lower]:
                rank[lower] = max(rank[lower], rank[box] + 1)
                if waits[lower] == 0:
                    ready.append(lower)
    for box in order:
        if is_source[box] and below[box]:
            rank[box] = max(0, min(rank[lower] for lower in below[box]) - 1)
    return rank


def _grid(widths: list[float], edges: Sequence[tuple[int, int]], rank: list[int]) -> _Grid:
    count = len(widths)
    grid = _Grid(count, list(rank), widths, [[] for _ in range(count)], [[] for _ in range(count)])
    for upper, lower in sorted(set(edges), key=lambda edge: rank[edge[1]] - rank[edge[0]]):
        if rank[upper] >= rank[lower]:
            continue
        if rank[lower] - rank[upper] > _MOST_LANES - len(grid.lanes):
            grid.link(upper, lower)  # straight
            continue
        last = upper
        for between in range(rank[upper] + 1, rank[lower]):
            lane = grid.lanes.get((upper, between))
            if lane is None:
                lane = grid.add_lane(upper, between)
                grid.link(last, lane)
            last = lane
        grid.link(last, lower)
    grid.ranks = [[] for _ in range(max(rank) + 1)]
    for index, row in enumerate(grid.rank):
        grid.ranks[row].append(index)
    return grid


def _order(grid: _Grid) -> None:
    place = [0.0] * len(grid.rank)

    def renumber(row: list[int]) -> None:
        for number, index in enumerate(row):
            place[index] = number - len(row) / 2

    for row in grid.ranks:
        renumber(row)
    for sweep in range(_ORDER_SWEEPS):
        neighbours = grid.below if sweep % 2 else grid.above
        for row in reversed(grid.ranks) if sweep % 2 else grid.ranks:
            wanted = {index: _mean([place[one] for one in neighbours[index]], place[index]) for index in row}
            row.sort(key=wanted.__getitem__)
            renumber(row)


def _centers(grid: _Grid) -> list[float]:
    """x of the middle of each box and lane; none reaches into its neighbour, and nothing lies left of 0."""
    center = [0.0] * len(grid.rank)
    offsets = [_packed(grid, row) for row in grid.ranks]
    for row, offset in zip(grid.ranks, offsets, strict=True):
        for index, by in zip(row, offset, strict=True):
            center[index] = by - offset[-1] / 2
    both = [above + below for above, below in zip(grid.above, grid.below, strict=True)]
    rows = list(zip(grid.ranks, offsets, strict=True))
    for sweep in range(_PLACE_SWEEPS):
        upward = bool(sweep % 2)
        near = both if sweep > 1 else grid.below if upward else grid.above  # one direction first, then both
        for row, offset in reversed(rows) if upward else rows:
            _place(grid, row, offset, near, center)
    left = min(x - width / 2 for x, width in zip(center, grid.width, strict=True))
    return [x - left for x in center]


def _place(
    grid: _Grid, row: list[int], offset: list[float], near: list[list[int]], center: list[float]
) -> None:
    """Moves the boxes of one rank to their neighbours, as near as their order and widths allow."""
    wanted = [_mean([center[other] for other in near[one]], center[one]) for one in row]
    weights = [1.0 if one < grid.boxes else _LANE_WEIGHT for one in row]
    shifts = _increasing([at - by for at, by in zip(wanted, offset, strict=True)], weights)
    for index, shift, by in zip(row, shifts, offset, strict=True):
        center[index] = shift + by


def _packed(grid: _Grid, row: list[int]) -> list[float]:
    """Middles of a rank's boxes as near to each other as they may stand, the first at 0."""
    offsets = [0.0]
    for one, other in itertools.pairwise(row):
        offsets.append(offsets[-1] + (grid.width[one] + grid.width[other]) / 2 + _GAP_X)
    return offsets


def _increasing(values: list[float], weights: list[float]) -> list[float]:
    """The numbers nearest to `values`, in weighted squares, that never fall."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, count
    for value, weight in zip(values, weights, strict=True):
        count = 1
        while pools and pools[-1][0] > value:
            mean, total, more = pools.pop()
            value = (value * weight + mean * total) / (weight + total)
            weight, count = weight + total, count + more
        pools.append((value, weight, count))
    return [mean for mean, _, count in pools for _ in range(count)]


def _rows(grid: _Grid, sizes: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """y of the upper side, and height, of each rank."""
    tops, heights, y = [], [], 0.0
    for row in grid.ranks:
        height = max((sizes[index][1] for index in row if index < len(sizes)), default=0.0)
        tops.append(y)
        heights.append(height)
        y += height + _GAP_Y
    return tops, heights


def _route(
    grid: _Grid,
    edge: tuple[int, int],
    sizes: Sequence[tuple[float, float]],
    places: list[Point],
    centers: list[float],
    rows: tuple[list[float], list[float]],
) -> list[Point]:
    upper, lower = edge
    if grid.rank[upper] >= grid.rank[lower]:
        return []
    points = [(centers[upper], places[upper][1] + sizes[upper][1])]
    for rank in range(grid.rank[upper] + 1, grid.rank[lower]):
        lane = grid.lanes.get((upper, rank))
        if lane is not None:
            points.append((centers[lane], rows[0][rank]))
            points.append((centers[lane], rows[0][rank] + rows[1][rank]))
    points.append((centers[lower], places[lower][1]))
    return points


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
