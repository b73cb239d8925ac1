"""A pipeline on a clock of its own: workers of a known service time, in step or not. Nothing computes or waits."""

from __future__ import annotations

import heapq
import itertools
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trt_yolo.runtime.ring import Answer, Task


@dataclass
class Pipeline:
    """What stands in for a `Model`, and for workers with full slots.

    Attributes:
        workers: How many.
        max_batch: Images a batch.
        service_s: What a batch takes.
        phases_s: When each worker takes its first batch.
        now_s: The time.
    """

    workers: int
    max_batch: int
    service_s: float
    phases_s: Sequence[float]
    now_s: float = 0.0
    due: list[tuple[float, int]] = field(default_factory=list)
    looked_at: int = -1
    has_moved: bool = False

    def clock(self) -> float:
        """The time."""
        return self.now_s

    @property
    def images_per_s(self) -> float:
        """What it does."""
        return self.workers * self.max_batch / self.service_s

    def begin(self, worker: int, at_s: float) -> None:
        """A worker takes a batch."""
        heapq.heappush(self.due, (at_s + self.service_s, worker))

    def end(self) -> int:
        """The time is that of the next answer; which worker gave it."""
        self.now_s, worker = heapq.heappop(self.due)
        return worker

    def stats(self) -> Any:
        """Nothing waits, and no stages are known."""
        return types.SimpleNamespace(waiting=0, frames=0)

    def stream(self, source: Iterable[object], *, ordered: bool) -> Iterator[Any]:
        """An answer for each image, batch by batch; two batches for each worker are read ahead."""
        assert not ordered
        items = iter(source)
        batches = iter(lambda: list(itertools.islice(items, self.max_batch)), [])
        ahead = list(itertools.islice(batches, 3 * self.workers))
        running = {}
        for worker, phase_s in enumerate(self.phases_s):
            running[worker] = ahead.pop(0)
            self.begin(worker, self.now_s + phase_s)
        numbers = itertools.count()
        while self.due:
            worker = self.end()
            for _ in running.pop(worker):
                yield types.SimpleNamespace(index=next(numbers), error=None)
            ahead += itertools.islice(batches, 1)
            if ahead:
                running[worker] = ahead.pop(0)
                self.begin(worker, self.now_s)

    def posts(self) -> list[Post]:
        """Its workers as the scope `infer` sees them."""
        return [Post(self, number) for number in range(self.workers)]


class Post:
    """A worker with two full slots."""

    def __init__(self, pipeline: Pipeline, number: int) -> None:
        self.batch = pipeline.max_batch
        self.under_way = 0
        self._pipeline, self._number = pipeline, number
        self._is_begun = False

    def send(self, frames: int) -> bool:
        """A slot is sent, where one is free."""
        assert frames == self.batch
        if self.under_way == 2:
            return False
        self.under_way += 1
        if self.under_way == 1:
            phase_s = 0.0 if self._is_begun else self._pipeline.phases_s[self._number]
            self._pipeline.begin(self._number, self._pipeline.now_s + phase_s)
            self._is_begun = True
        return True

    def answers(self) -> list[tuple[Answer, Task]]:
        """The next answer, if it is this worker's. The time moves once in a look at all workers."""
        is_new_look = self._number <= self._pipeline.looked_at
        self._pipeline.has_moved = self._pipeline.has_moved and not is_new_look
        self._pipeline.looked_at = self._number
        due = self._pipeline.due
        if not due or due[0][1] != self._number:
            return []
        if due[0][0] > self._pipeline.now_s and self._pipeline.has_moved:
            return []
        self._pipeline.has_moved = True
        self._pipeline.end()
        self.under_way -= 1
        if self.under_way:
            self._pipeline.begin(self._number, self._pipeline.now_s)
        start_ns = round((self._pipeline.now_s - self._pipeline.service_s) * 1e9)
        task = Task(1, self.batch, 0.25, 0.7, start_ns)
        return [(Answer(None, start_ns, round(self._pipeline.now_s * 1e9)), task)]
