"""What a GPU backend decides without a GPU: batch sizes, how frames reach it, which captured graphs it keeps.

Pure: numbers and names in, numbers and names out. Knows neither CUDA nor TensorRT.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, Literal, TypeVar

from trt_yolo.artifacts.shapes import BatchRange

MemoryStrategy = Literal["mapped", "registered", "staged"]
"""How a slot's bytes reach the GPU.

    mapped      an integrated GPU reads and writes the slot itself: no copies
    registered  the slot is page-locked: the GPU copies straight from it and into it
    staged      the slot cannot be page-locked: a pinned buffer between, copied by the processor
"""

MOST_GRAPHS = 128  # of one lane; a graph takes some hundred kilobytes

_Graph = TypeVar("_Graph")


def batch_sizes(batch: BatchRange) -> tuple[int, ...]:
    """The batch sizes that are run: the one of a static engine; of a dynamic one powers of two, and both ends.

    A batch of another size runs as the next larger one, so that few graphs serve all of them.
    """
    powers = {1 << exponent for exponent in range(batch.maximum.bit_length())}
    inside = {size for size in powers if batch.minimum < size < batch.maximum}
    return tuple(sorted(inside | {batch.minimum, batch.maximum}))


def fitting(sizes: Sequence[int], count: int) -> int:
    """The smallest of the sizes that holds so many frames.

    Raises:
        ValueError: None does.
    """
    for size in sizes:
        if size >= count:
            return size
    raise ValueError(f"{count} frames, and the largest batch is {sizes[-1]}")


def strategy_for(*, integrated: bool, can_map: bool, registered: bool) -> MemoryStrategy:
    """How frames reach a GPU.

    Args:
        integrated: It shares the processor's memory.
        can_map: It can address page-locked memory of the processor.
        registered: The slots' memory could be page-locked.
    """
    if not registered:
        return "staged"
    return "mapped" if integrated and can_map else "registered"


class Captures(Generic[_Graph]):
    """The graphs that were captured, as many as are allowed: a batch beyond them is enqueued plainly.

    Attributes:
        refused: Why none can be captured; empty where that works.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int = MOST_GRAPHS) -> None:
        self._most = most
        self._graphs: dict[Hashable, _Graph] = {}
        self.refused = ""

    def __len__(self) -> int:
        return len(self._graphs)

    @property
    def has_room(self) -> bool:
        """Whether another one may be captured."""
        return not self.refused and len(self._graphs) < self._most

    def get(self, key: Hashable) -> _Graph | None:
        """The graph of a key; None where nobody captured one."""
        return self._graphs.get(key)

    def keep(self, key: Hashable, graph: _Graph) -> None:
        """Keeps a graph."""
        assert key not in self._graphs
        self._graphs[key] = graph

    def refuse(self, reason: str) -> bool:
        """Notes that capturing does not work; True the first time, when it is worth a line in the log."""
        first, self.refused = not self.refused, self.refused or reason
        return first

    def drain(self) -> Iterator[_Graph]:
        """All of them, which are kept no longer."""
        while self._graphs:
            yield self._graphs.popitem()[1]
