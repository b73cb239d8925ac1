"""A batch on its way to a worker: the lane that leads there, the slot that it fills, its places.

Plain state: `batching.py` says who may change it, and when.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.runtime.job import Job
from trt_yolo.runtime.ring import Slot, Task


@dataclass(eq=False, slots=True)
class Lane:
    """The way to one worker, whichever process serves it now.

    Attributes:
        number: Which worker, from 0.
        slots: The memory shared with it; none while there is no worker.
        free: Indices of its FREE slots.
        in_flight: The batches that its worker has, by slot.
        notify: Tells the worker that one more slot is READY.
        at_once: Batches that the worker runs at the same time.
        sequence: Of the last batch sent.
        used: When it was last chosen, as a count.
        since_s: When its worker last answered, or was given something after it had nothing; monotonic.
    """

    number: int
    slots: Sequence[Slot] = ()
    free: collections.deque[int] = field(default_factory=collections.deque)
    in_flight: dict[int, Batch] = field(default_factory=dict)
    notify: Callable[[], None] = lambda: None
    at_once: int = 1
    sequence: int = 0
    used: int = 0
    since_s: float = 0.0

    @property
    def is_hungry(self) -> bool:
        """Whether its worker will have nothing to do next."""
        return len(self.in_flight) <= self.at_once


@dataclass(eq=False, slots=True)
class Batch:
    """A slot being filled, or sent.

    Attributes:
        lane: Whose slot it is.
        slot: The slot.
        key: What the batch's jobs have in common.
        capacity: Places in it.
        together: Whether it waits for the rest of its group.
        deadline_s: When it leaves even if it is not full; monotonic.
        jobs: By place; None for a place that was given up.
        filled: Places that are written.
        sealed: Whether no more places are given away.
        lost: Whether its lane's worker ended before it was sent.
        task: What was sent.
    """

    lane: Lane
    slot: Slot
    key: Hashable
    capacity: int
    together: bool
    deadline_s: float
    jobs: list[Job | None] = field(default_factory=list)
    filled: int = 0
    sealed: bool = False
    lost: bool = False
    task: Task | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every place given away is written."""
        return self.filled == len(self.jobs)


class Place(NamedTuple):
    """A place in a batch, to be written and then committed or abandoned.

    Attributes:
        batch: The batch.
        number: Which place.
        frame: (H, W, 3) uint8, where the image goes, letterboxed or as it is.
    """

    batch: Batch
    number: int
    frame: npt.NDArray[np.uint8]
