"""A pipeline on a clock of its own: workers whose service times are known, in step or not. Nothing computes or waits.

The bench's own code runs on it: loads, scopes, statistics, comparisons. What comes of it is exact, on any machine.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from trt_yolo.bench import flow, loads, measure, scope_e2e, scope_infer
from trt_yolo.runtime.ring import Answer, Task

SLOTS = 4

_TIMED = (flow, loads, measure, scope_e2e, scope_infer)
_SHORTEST_S = 10e-6  # what yields sleeps for 0 s: time goes on all the same


class Clock:
    """Stands in for the module `time`: it moves when somebody sleeps, or when an answer is waited for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def perf_counter(self) -> float:
        """The time, in seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """What is due until then happens, each at its moment."""
        until_s = self.now_s + max(seconds, _SHORTEST_S)
        while self._events and self._events[0][0] <= until_s:
            self.go_on()
        self.now_s = until_s

    def at(self, moment_s: float, happens: Callable[[], object]) -> None:
        """Something happens at that moment."""
        heapq.heappush(self._events, (moment_s, next(self._numbers), happens))

    def go_on(self) -> None:
        """The next thing happens."""
        self.now_s, _, happens = heapq.heappop(self._events)
        happens()


def simulated(patch: pytest.MonkeyPatch) -> Clock:
    """A clock that all modules of the bench look at instead of the real one."""
    clock = Clock()
    for module in _TIMED:
        patch.setattr(module, "time", clock)
    return clock


@dataclass
class Pipeline:
    """What stands in for a `Model`, for workers with full slots and for backends.

    Attributes:
        clock: Its clock.
        services_s: What the first batch takes, the second, and so on, round and round.
        workers: How many.
        max_batch: Images a batch.
        phases_s: When each worker takes its first batch of a stream; none: at once.
    """

    clock: Clock
    services_s: Sequence[float]
    workers: int = 1
    max_batch: int = 1
    phases_s: Sequence[float] = ()
    due: list[tuple[float, int, float]] = field(default_factory=list)
    looked_at: int = -1
    has_moved: bool = False

    def __post_init__(self) -> None:
        self._services_s = itertools.cycle(self.services_s)
        self.phases_s = self.phases_s or [0.0] * self.workers
        self._waiting = 0
        self._free_s = 0.0

    @property
    def images_per_s(self) -> float:
        """What it does, where every batch takes the same."""
        return self.workers * self.max_batch / self.services_s[0]

    def begin(self, worker: int, at_s: float) -> None:
        """A worker takes a batch."""
        heapq.heappush(self.due, (at_s + next(self._services_s), worker, at_s))

    def end(self) -> tuple[int, float]:
        """The time is that of the next answer; which worker gave it, and when it took that batch."""
        self.clock.now_s, worker, begun_s = heapq.heappop(self.due)
        return worker, begun_s

    def stats(self) -> Any:
        """What waits; no stages are known, and no camera dropped anything."""
        sources = collections.defaultdict(lambda: types.SimpleNamespace(dropped=0))
        return types.SimpleNamespace(waiting=self._waiting, frames=0, sources=sources)

    def __call__(self, source: object) -> None:
        """Answers one image, or several batch by batch."""
        images = len(source) if isinstance(source, list) else 1
        for _ in range(0, images, self.max_batch):
            self.clock.sleep(next(self._services_s))

    def submit(self, _: object) -> Future[None]:
        """One worker answers in turn; waits while all slots are full."""
        while self._waiting == SLOTS:
            self.clock.go_on()
        future: Future[None] = Future()

        def answer() -> None:
            self._waiting -= 1
            future.set_result(None)

        self._waiting += 1
        self._free_s = max(self._free_s, self.clock.now_s) + next(self._services_s)
        self.clock.at(self._free_s, answer)
        return future

    def stream(self, source: Iterable[object], *, ordered: bool = True, **_: object) -> Iterator[Any]:
        """Of files an answer for each, batch by batch, two batches for each worker read ahead; of a camera, in turn."""
        return self._in_turn(source) if ordered else self._busy(source)

    def _in_turn(self, source: Iterable[object]) -> Iterator[Any]:
        for number, _ in enumerate(source):
            self.clock.sleep(next(self._services_s))
            yield types.SimpleNamespace(index=number, error=None)

    def _busy(self, source: Iterable[object]) -> Iterator[Any]:
        items = iter(source)
        batches = iter(lambda: list(itertools.islice(items, self.max_batch)), [])
        ahead = list(itertools.islice(batches, 3 * self.workers))
        running = {}
        for worker, phase_s in enumerate(self.phases_s):
            running[worker] = ahead.pop(0)
            self.begin(worker, self.clock.now_s + phase_s)
        numbers = itertools.count()
        while self.due:
            worker, _ = self.end()
            for _ in running.pop(worker):
                yield types.SimpleNamespace(index=next(numbers), error=None)
            ahead += itertools.islice(batches, 1)
            if ahead:
                running[worker] = ahead.pop(0)
                self.begin(worker, self.clock.now_s)

    def slots(self) -> Any:
        """Its workers as the scope `infer` sees them."""
        return types.SimpleNamespace(posts=[Post(self, number) for number in range(self.workers)])

    def backend(self) -> Any:
        """One of its sessions as the scope `engine` sees it."""
        batch = types.SimpleNamespace(minimum=1)
        return types.SimpleNamespace(
            manifest=types.SimpleNamespace(batch=batch),
            bare_call=lambda *_, **__: lambda: self.clock.sleep(next(self._services_s)),
        )


class Post:
    """A worker with two full slots."""

    def __init__(self, pipeline: Pipeline, number: int) -> None:
        self.batch = pipeline.max_batch
        self.under_way = 0
        self._pipeline, self._number = pipeline, number
        self._is_begun = False

    @property
    def free(self) -> int:
        """Slots that may be sent."""
        return 2 - self.under_way

    def send(self, frames: int) -> bool:
        """A slot is sent, where one is free."""
        assert frames <= self.batch
        if not self.free:
            return False
        self.under_way += 1
        if self.under_way == 1:
            phase_s = 0.0 if self._is_begun else self._pipeline.phases_s[self._number]
            self._pipeline.begin(self._number, self._pipeline.clock.now_s + phase_s)
            self._is_begun = True
        return True

    def answers(self) -> list[tuple[Answer, Task]]:
        """The next answer, if it is this worker's. The time moves once in a look at all workers."""
        is_new_look = self._number <= self._pipeline.looked_at
        self._pipeline.has_moved = self._pipeline.has_moved and not is_new_look
        self._pipeline.looked_at = self._number
        due, clock = self._pipeline.due, self._pipeline.clock
        if not due or due[0][1] != self._number:
            return []
        if due[0][0] > clock.now_s and self._pipeline.has_moved:
            return []
        self._pipeline.has_moved = True
        _, begun_s = self._pipeline.end()
        self.under_way -= 1
        if self.under_way:
            self._pipeline.begin(self._number, clock.now_s)
        start_ns = round(begun_s * 1e9)
        task = Task(1, self.batch, 0.25, 0.7, start_ns)
        return [(Answer(None, start_ns, round(clock.now_s * 1e9)), task)]
