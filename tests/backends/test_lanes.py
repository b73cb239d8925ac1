"""What a GPU backend decides without a GPU."""

from __future__ import annotations

import pytest

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.lanes import Captures, MemoryStrategy, batch_sizes, fitting, strategy_for


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [
        (BatchRange(1, 1), (1,)),
        (BatchRange(8, 8), (8,)),
        (BatchRange(1, 2), (1, 2)),
        (BatchRange(1, 16), (1, 2, 4, 8, 16)),
        (BatchRange(1, 12), (1, 2, 4, 8, 12)),
        (BatchRange(3, 20), (3, 4, 8, 16, 20)),
        (BatchRange(4, 5), (4, 5)),
    ],
    ids=str,
)
def test_batch_sizes(batch: BatchRange, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(batch) == sizes


@pytest.mark.parametrize("maximum", range(1, 70))
def test_every_count_has_a_size_less_than_twice_as_large(maximum: int) -> None:
    sizes = batch_sizes(BatchRange(1, maximum))
    assert len(sizes) <= maximum.bit_length() + 1
    for count in range(1, maximum + 1):
        assert count <= fitting(sizes, count) < 2 * count or count == 1


def test_no_size_for_too_many() -> None:
    with pytest.raises(ValueError, match="9 frames, and the largest batch is 8"):
        fitting((1, 8), 9)


@pytest.mark.parametrize(
    ("integrated", "can_map", "registered", "wanted"),
    [
        (False, True, True, "registered"),
        (False, False, True, "registered"),
        (True, True, True, "mapped"),
        (True, False, True, "registered"),
        (True, True, False, "staged"),
        (False, True, False, "staged"),
    ],
)
def test_how_frames_reach_the_gpu(
    integrated: bool, can_map: bool, registered: bool, wanted: MemoryStrategy
) -> None:
    assert strategy_for(integrated=integrated, can_map=can_map, registered=registered) == wanted


def test_no_more_graphs_are_kept_than_are_allowed() -> None:
    """A batch beyond them runs plainly: capturing it each time anew would be slower."""
    captures = Captures[str](most=2)
    assert captures.get("a") is None
    for name in "ab":
        assert captures.has_room
        captures.keep(name, f"graph {name}")
    assert not captures.has_room
    assert (captures.get("a"), captures.get("c"), len(captures)) == ("graph a", None, 2)
    assert sorted(captures.drain()) == ["graph a", "graph b"]
    assert len(captures) == 0


def test_a_refusal_is_told_once() -> None:
    captures = Captures[str]()
    assert captures.refused == ""
    assert captures.refuse("not here")
    assert not captures.refuse("nor here")
    assert captures.refused == "not here"
    assert not captures.has_room
