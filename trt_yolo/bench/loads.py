"""Ways to load something: again and again, or at moments that were fixed beforehand.

Enters: a query to make. Leaves: a `Window`. Knows no models.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from trt_yolo.bench.window import Query, Window

_SPIN_S = 200e-6
_LOOK_S = 0.1
_HOPELESS_S = 2.0


class Issue(Protocol):
    """Sends one image on its way."""

    def __call__(self, ended: Callable[[Exception | None], None]) -> None:
        """Returns when it is under way; `ended` is called when it is answered, from any thread."""


def closed_loop(query: Callable[[], object], *, images: int, seconds: float) -> Window:
    """One query after another for so long, at least one.

    Args:
        query: Returns when it is answered.
        images: How many images each is about.
        seconds: For how long.
    """
    clock, queries = time.perf_counter, list[Query]()
    started_s = now_s = clock()
    until_s = started_s + seconds
    while not queries or now_s < until_s:
        begun_s = clock()
        query()
        now_s = clock()
        queries.append(Query(begun_s, begun_s, now_s, images))
    return Window(
        started_s=started_s, seconds=now_s - started_s, images=images * len(queries), queries=queries
    )


def timed_for(call: Callable[[], object], seconds: float) -> list[float]:
    """What each call took, in seconds, called for so long, at least once."""
    window = closed_loop(call, images=1, seconds=seconds)
    return [query.ended_s - query.begun_s for query in window.queries]


def poisson_arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Moments within so many seconds at which images are due, at least one; the same for the same seed."""
    chance = np.random.default_rng(seed)
    due_s = 0.0
    arrivals: list[float] = []
    while True:
        due_s += chance.exponential(1 / rate)
        if due_s >= seconds and arrivals:
            return arrivals
        arrivals.append(due_s)


def open_loop(issue: Issue, arrivals_s: Sequence[float], *, seconds: float) -> Window:
    """Sends images when they are due, whether or not earlier ones have been answered.

    Latencies count from when an image was due. If it could not be sent then, because all slots were full, it
    has waited all the same (Tene's coordinated omission). When sending falls more than 2 s and more than the
    whole load's time behind, the rest is not sent: nobody would wait for that queue to end.

    Args:
        issue: Sends one; may wait for room.
        arrivals_s: When they are due, in seconds after the start, rising.
        seconds: The time that they are spread over; what came is counted over that, or until the last answer.
    """
    answers = _Answers(len(arrivals_s))
    patience_s = max(_HOPELESS_S, arrivals_s[-1])
    started_s = time.perf_counter()
    sent = 0
    for moment_s in arrivals_s:
        due_s = started_s + moment_s
        if wait_until(due_s) > patience_s:
            break
        issue(answers.expect(due_s, time.perf_counter()))
        sent += 1
    answers.wait_for(sent)
    queries = answers.queries
    ends_s = [query.ended_s for query in queries]
    return Window(
        started_s=started_s,
        seconds=max([started_s + seconds, *ends_s]) - started_s,
        images=len(queries),
        queries=queries,
        offered=len(arrivals_s),
        errors=answers.errors,
        dropped=len(arrivals_s) - sent,
        is_cut=sent < len(arrivals_s),
        ends_s=ends_s,
    )


class _Answers:
    """Notes answers that come from any thread."""

    def __init__(self, most: int) -> None:
        self.queries: list[Query] = []
        self.errors = 0
        self._most = most
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)

    def expect(self, due_s: float, begun_s: float) -> Callable[[Exception | None], None]:
        """What to call with the answer's error."""

        def ended(error: Exception | None) -> None:
            ended_s = time.perf_counter()
            with self._lock:
                if error is None:
                    self.queries.append(Query(due_s, begun_s, ended_s))
                else:
                    self.errors += 1
                self._news.notify()

        return ended

    def wait_for(self, count: int) -> None:
        with self._lock:
            while len(self.queries) + self.errors < count:
                self._news.wait(_LOOK_S)


def wait_until(due_s: float) -> float:
    """Waits for that moment of `time.perf_counter`; how late it is then, in seconds."""
    while (left_s := due_s - time.perf_counter()) > 0:
        time.sleep(max(0.0, left_s - _SPIN_S))  # the last moments are yielded, not slept through
    return -left_s


def ticks(fps: float, *, offset_s: float, frames: int, stopped: threading.Event) -> Iterator[float]:
    """The moments at which a camera has a frame; each is given when it has come.

    Args:
        fps: Frames a second.
        offset_s: When the first one is due, `time.perf_counter`.
        frames: How many.
        stopped: Ends it early.
    """
    for number in range(frames):
        due_s = offset_s + number / fps
        wait_until(due_s)
        if stopped.is_set():
            return
        yield due_s
