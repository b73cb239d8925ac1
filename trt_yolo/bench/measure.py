"""Measures contenders beside each other, searches the rate that keeps a latency limit, and times the machine itself.

Contenders are warmed up until they are steady, then measured in turn, window by window: A B B A A B ... Whatever the
machine does meanwhile hits all alike, and the windows of two contenders that were measured one after the other make
pairs. Enters: contenders. Leaves: their windows. Prints nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import cv2
import numpy as np

from trt_yolo.bench.figures import WarmUp
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.report import FoundRate, Trial
from trt_yolo.bench.statistics import STEADY, latency_of
from trt_yolo.bench.window import Contender, Window
from trt_yolo.errors import InputError

_SHORTEST_S = 0.25
_LEAST_WINDOWS = 6  # fewer give a ratio no interval
_MOST_ROUNDS = 1_000
_WARM_WINDOW_S = 0.2
_AGREEING = 3

_CLOSE = 0.03
_MOST_TRIALS = 12
_LEAST_ARRIVALS = 200
_LONGEST_TRIAL_S = 60.0
_LOWEST = 0.05

_YARDSTICK_SIDE = 320
_YARDSTICK_S = 0.03


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and how thoroughly.

    Attributes:
        seconds: For each contender, warm-up not counted, at the least.
        min_count: Queries (images, where a load has none) of each contender, at the least.
        windows: Into how many windows `seconds` are divided, at the most; fewer where they would be shorter than a
            quarter of a second. A slow model's windows are longer, and fewer: at least 6, or as many as this. Where
            a part of each window does not count, there are more.
        warm_up_s: The longest warm-up of each contender, in seconds; None: as long as half of `seconds`, at least
            half a second and at most 5.

    Raises:
        InputError: A number outside its range.
    """

    seconds: float = 5.0
    min_count: int = 30
    windows: int = 10
    warm_up_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 86_400:
            raise InputError(
                f"--duration {self.seconds:g} is no time to measure; give seconds, more than 0, such as 5"
            )
        if not 1 <= self.min_count <= 10_000_000:
            raise InputError(
                f"--min-count {self.min_count}; give a number of queries, at least 1, such as 30"
            )

    @property
    def count(self) -> int:
        """Into how many windows the time is divided."""
        return min(self.windows, max(_LEAST_WINDOWS, int(self.seconds / _SHORTEST_S)))

    @property
    def window_s(self) -> float:
        """How long a window is, in seconds."""
        return self.seconds / self.count


@dataclass(eq=False)
class Seen:
    """What was seen of one contender.

    Attributes:
        contender: Which.
        warm_up: What was run before.
        windows: What was seen, in order.
    """

    contender: Contender
    warm_up: WarmUp = field(default_factory=lambda: WarmUp(seconds=0.0, windows=0, is_steady=False))
    windows: list[Window] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the contender is called in results."""
        return self.contender.name

    @property
    def rates(self) -> list[float]:
        """Images a second, by window."""
        return [window.images_per_s for window in self.windows]

    def share(self, schedule: Schedule) -> float:
        """How much of what is wanted has been measured, 0 to 1: windows, time and queries."""
        if self.contender.is_continuous:
            return float(bool(self.windows))
        count = sum(len(window.queries) or window.images for window in self.windows)
        seconds = sum(window.seconds for window in self.windows)
        windows = len(self.windows) / min(schedule.windows, _LEAST_WINDOWS)
        return min(1.0, windows, seconds / schedule.seconds, count / schedule.min_count)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The throughput of one window, and how far all has got.

    Attributes:
        name: What has just been measured.
        share: How much of all is done, 0 to 1.
        images_per_s: Its throughput in that window.
        is_warm_up: Whether that does not count.
    """

    name: str
    share: float
    images_per_s: float
    is_warm_up: bool = False


Say = Callable[[Reading], None]
Around = Callable[[Contender], AbstractContextManager[object]]
_LoadAt = Callable[[Scenario, int], Contender]


@dataclass(eq=False)
class Measured:
    """What was measured.

    Attributes:
        seen: By contender, in their order.
        began_s: When the first window began, `time.perf_counter`.
        is_partial: Whether it was interrupted: the windows until then are whole.
    """

    seen: list[Seen]
    began_s: float = 0.0
    is_partial: bool = False


def measure(
    contenders: Sequence[Contender],
    schedule: Schedule,
    *,
    say: Say = lambda _: None,
    around: Around = lambda _: nullcontext(),
    warmed_by: Callable[[Contender], Contender] = lambda contender: contender,
) -> Measured:
    """Measures them in turn, until each has had its time and its count; Ctrl-C ends it, what was seen stays.

    Args:
        contenders: What to measure.
        schedule: For how long.
        say: Called after each window.
        around: A context that each counted window runs in: a meter of power, say.
        warmed_by: What warms a contender up: itself, or the same model under another load.

    Raises:
        TrtYoloError: A contender failed.
    """
    measured = Measured([Seen(one) for one in contenders], time.perf_counter())
    try:
        for seen in measured.seen:
            seen.warm_up = warm_up(warmed_by(seen.contender), schedule, say)
        measured.began_s = time.perf_counter()
        for seen in _turns(measured.seen, schedule):
            with around(seen.contender):
                window = seen.contender.window(_share_s(seen, schedule))
            seen.windows.append(window)
            share = sum(one.share(schedule) for one in measured.seen) / len(measured.seen)
            say(Reading(name=seen.name, share=share, images_per_s=window.images_per_s))
    except KeyboardInterrupt:
        measured.is_partial = True
    return measured


def warm_up(contender: Contender, schedule: Schedule, say: Say = lambda _: None) -> WarmUp:
    """Runs it until three windows in a row agree within 5%, or its time is over."""
    start_s, rates = time.perf_counter(), list[float]()
    window_s = min(_WARM_WINDOW_S, schedule.seconds / _AGREEING)
    limit_s = min(5.0, max(0.5, schedule.seconds / 2)) if schedule.warm_up_s is None else schedule.warm_up_s
    while True:
        window = contender.window(window_s)
        rates.append(window.images_per_s)
        say(Reading(name=contender.name, share=0.0, images_per_s=rates[-1], is_warm_up=True))
        spent_s = time.perf_counter() - start_s
        is_steady = _agree(rates[-_AGREEING:])
        if is_steady or spent_s >= limit_s:
            return WarmUp(seconds=spent_s, windows=len(rates), is_steady=is_steady)


def _agree(rates: Sequence[float]) -> bool:
    return len(rates) == _AGREEING and max(rates) <= (1 + STEADY) * min(rates)


def _share_s(seen: Seen, schedule: Schedule) -> float:
    return schedule.seconds if seen.contender.is_continuous else schedule.window_s


def _turns(all_seen: Sequence[Seen], schedule: Schedule) -> Iterator[Seen]:
    """Whose turn it is; every other round backwards, so that none is always first."""
    for number in range(_MOST_ROUNDS):
        needy = [seen for seen in all_seen if seen.share(schedule) < 1]
        if not needy:
            return
        yield from needy if number % 2 == 0 else reversed(needy)


def find_rate(
    load_at: _LoadAt, *, limit_ms: float, schedule: Schedule, seed: int, say: Say
) -> Iterator[FoundRate]:
    """Searches the highest rate of arrivals that keeps a latency limit; yields what is known after each trial.

    Halves the range below what a closed loop reaches, until its ends lie within 3% of each other.

    Args:
        load_at: The contender of a scenario and a seed.
        limit_ms: What the 99th percentile may be, in milliseconds, from when a request was due.
        schedule: Each rate is tried for as long as that, and for 200 arrivals, but for a minute at most.
        seed: Of the arrivals; each trial has its own.
        say: Called after each trial.
    """
    offline = load_at(Scenario(name="offline"), seed)
    warm_up(offline, schedule)
    capacity = offline.window(max(1.0, schedule.seconds / 4)).images_per_s
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        trial = _tried(load_at, rate, limit_ms=limit_ms, schedule=schedule, seed=seed + len(trials))
        trials.append(trial)
        say(Reading(name=f"rate {rate:.4g}", share=len(trials) / _MOST_TRIALS, images_per_s=rate))
        return trial.held

    low, high = 0.0, capacity
    lowest = capacity * _LOWEST
    while len(trials) < _MOST_TRIALS and high > lowest and high - low > _CLOSE * high:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
        yield FoundRate(limit_ms=limit_ms, rate=low or None, trials=tuple(trials))


def _tried(load_at: _LoadAt, rate: float, *, limit_ms: float, schedule: Schedule, seed: int) -> Trial:
    scenario = dataclasses.replace(Scenario(name="server"), rate=rate)
    seconds = min(max(schedule.seconds, _LEAST_ARRIVALS / rate), max(schedule.seconds, _LONGEST_TRIAL_S))
    window = load_at(scenario, seed).window(seconds)
    latency = latency_of([query.latency_ms for query in window.queries])
    p99_ms = latency.p99 if latency is not None else None
    held = p99_ms is not None and p99_ms <= limit_ms and not window.is_cut and not window.errors
    return Trial(rate=rate, p99_ms=p99_ms, held=held)


class Yardstick:
    """A fixed piece of work, done between the windows: how fast the machine itself is just then.

    Filters an image again and again, on as many threads as OpenCV has.

    Attributes:
        rates: Work a second, each time it was read.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        chance = np.random.default_rng(0)
        self._image = chance.random((_YARDSTICK_SIDE, _YARDSTICK_SIDE, 3), np.float32)
        self._work()

    def read(self) -> None:
        """Works for 30 ms, and notes how fast."""
        start_s = now_s = time.perf_counter()
        done = 0
        while now_s - start_s < _YARDSTICK_S:
            self._work()
            done += 1
            now_s = time.perf_counter()
        self.rates.append(done / (now_s - start_s))

    def _work(self) -> None:
        cv2.GaussianBlur(self._image, (9, 9), 2.0)
