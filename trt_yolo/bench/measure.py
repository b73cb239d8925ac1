"""Measures contenders beside each other: warm until stable, then in turn, window by window.

A B C A B C ...: whatever the machine does meanwhile hits all alike, and the windows of two contenders that were
measured one after the other make pairs. Enters: contenders. Leaves: their windows. Prints nothing.
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


@dataclass(frozen=True, kw_only=True)
class Plan:
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

    def share(self, plan: Plan) -> float:
        """How much of what is wanted has been measured, 0 to 1: windows, time and queries."""
        if self.contender.is_continuous:
            return float(bool(self.windows))
        count = sum(len(window.queries) or window.images for window in self.windows)
        seconds = sum(window.seconds for window in self.windows)
        windows = len(self.windows) / min(plan.windows, _LEAST_WINDOWS)
        return min(1.0, windows, seconds / plan.seconds, count / plan.min_count)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it has got.

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


Say = Callable[[Progress], None]
Around = Callable[[Contender], AbstractContextManager[object]]


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

    def of(self, contender: Contender) -> Seen:
        """What was seen of that one."""
        return next(one for one in self.seen if one.contender is contender)


def measure(
    contenders: Sequence[Contender],
    plan: Plan,
    *,
    say: Say | None = None,
    around: Around | None = None,
    warmed_by: Callable[[Contender], Contender] = lambda contender: contender,
) -> Measured:
    """Measures them in turn, until each has had its time and its count; Ctrl-C ends it, what was seen stays.

    Args:
        contenders: What to measure.
        plan: For how long.
        say: Called after each window.
        around: A context that each counted window runs in: a meter of power, say.
        warmed_by: What warms a contender up: itself, or the same model under another load.

    Raises:
        TrtYoloError: A contender failed.
    """
    tell: Say = say or _silent
    measured = Measured([Seen(one) for one in contenders], time.perf_counter())
    try:
        for seen in measured.seen:
            seen.warm_up = warm_up(warmed_by(seen.contender), plan, tell)
        measured.began_s = time.perf_counter()
        for seen in _turns(measured.seen, plan):
            with (around or _nothing_around)(seen.contender):
                window = seen.contender.window(_share_s(seen, plan))
            seen.windows.append(window)
            share = sum(one.share(plan) for one in measured.seen) / len(measured.seen)
            tell(Progress(name=seen.name, share=share, images_per_s=window.images_per_s))
    except KeyboardInterrupt:
        measured.is_partial = True
    return measured


def warm_up(contender: Contender, plan: Plan, say: Say | None = None) -> WarmUp:
    """Runs it until three windows in a row agree within 5%, or its time is over."""
    start_s, rates = time.perf_counter(), list[float]()
    window_s = min(_WARM_WINDOW_S, plan.seconds / _AGREEING)
    limit_s = min(5.0, max(0.5, plan.seconds / 2)) if plan.warm_up_s is None else plan.warm_up_s
    while True:
        window = contender.window(window_s)
        rates.append(window.images_per_s)
        if say is not None:
            progress = Progress(name=contender.name, share=0.0, images_per_s=rates[-1], is_warm_up=True)
            say(progress)
        spent_s = time.perf_counter() - start_s
        is_steady = _agree(rates[-_AGREEING:])
        if is_steady or spent_s >= limit_s:
            return WarmUp(seconds=spent_s, windows=len(rates), is_steady=is_steady)


def _agree(rates: Sequence[float]) -> bool:
    return len(rates) == _AGREEING and max(rates) <= (1 + STEADY) * min(rates)


def _share_s(seen: Seen, plan: Plan) -> float:
    return plan.seconds if seen.contender.is_continuous else plan.window_s


def _turns(all_seen: Sequence[Seen], plan: Plan) -> Iterator[Seen]:
    """Whose turn it is; every other round backwards, so that none is always first."""
    for number in range(_MOST_ROUNDS):
        needy = [seen for seen in all_seen if seen.share(plan) < 1]
        if not needy:
            return
        yield from needy if number % 2 == 0 else reversed(needy)


def _silent(_: Progress) -> None:
    pass


def _nothing_around(_: Contender) -> AbstractContextManager[object]:
    return nullcontext()


# The highest rate of arrivals that keeps a latency limit: searched by halving.
_CLOSE = 0.03
_MOST_TRIALS = 12
_LEAST_ARRIVALS = 200
_LONGEST_S = 60.0
_LOWEST = 0.05

LoadAt = Callable[[Scenario, int], Contender]


def find_rate(load_at: LoadAt, *, limit_ms: float, plan: Plan, seed: int, say: Say) -> Iterator[FoundRate]:
    """Tries rates below what a closed loop reaches, until they lie within 3% of each other; what is known after each.

    Args:
        load_at: The contender of a scenario and a seed.
        limit_ms: What the 99th percentile may be, in milliseconds, from when a request was due.
        plan: Each rate is tried for as long as that, and for 200 arrivals, but for a minute at most.
        seed: Of the arrivals; each trial has its own.
        say: Called after each trial.
    """
    offline = load_at(Scenario(name="offline"), seed)
    warm_up(offline, plan)
    capacity = offline.window(max(1.0, plan.seconds / 4)).images_per_s
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        trial = _tried(load_at, rate, limit_ms=limit_ms, plan=plan, seed=seed + len(trials))
        trials.append(trial)
        say(Progress(name=f"rate {rate:.4g}", share=len(trials) / _MOST_TRIALS, images_per_s=rate))
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


def _tried(load_at: LoadAt, rate: float, *, limit_ms: float, plan: Plan, seed: int) -> Trial:
    scenario = dataclasses.replace(Scenario(name="server"), rate=rate)
    seconds = min(max(plan.seconds, _LEAST_ARRIVALS / rate), max(plan.seconds, _LONGEST_S))
    window = load_at(scenario, seed).window(seconds)
    latency = latency_of([query.latency_ms for query in window.queries])
    p99_ms = latency.p99 if latency is not None else None
    held = p99_ms is not None and p99_ms <= limit_ms and not window.is_cut and not window.errors
    return Trial(rate=rate, p99_ms=p99_ms, held=held)


# A fixed piece of work, done between the windows: how fast the machine itself is just then.
_SIDE = 320
_SECONDS = 0.03


class Yardstick:
    """Filters an image again and again, on as many threads as OpenCV has.

    Attributes:
        rates: Work a second, each time it was read.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        chance = np.random.default_rng(0)
        self._image = chance.random((_SIDE, _SIDE, 3), np.float32)
        self._work()

    def read(self) -> None:
        """Works for 30 ms, and notes how fast."""
        start_s = now_s = time.perf_counter()
        done = 0
        while now_s - start_s < _SECONDS:
            self._work()
            done += 1
            now_s = time.perf_counter()
        self.rates.append(done / (now_s - start_s))

    def _work(self) -> None:
        cv2.GaussianBlur(self._image, (9, 9), 2.0)
