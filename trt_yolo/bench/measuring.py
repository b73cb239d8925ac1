"""Measures contenders beside each other: warm until stable, then in turn, window by window.

A B C A B C ...: whatever the machine does meanwhile hits all alike, and the windows of two contenders that were
measured one after the other make pairs. Enters: contenders. Leaves: their windows. Prints nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from trt_yolo.bench.figures import WarmUp
from trt_yolo.bench.statistics import STEADY
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
