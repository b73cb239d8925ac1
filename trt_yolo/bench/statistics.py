"""Figures from what was seen: percentiles, throughput with its interval, ratios, verdicts.

Enters: windows, numbers. Leaves: figures. Pure; knows no clocks and no models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_yolo.bench.window import Window

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}
STEADY = 0.05
"""Windows that lie further from their median than this share of it disagree."""

_FEW = 5
_MOST_WINDOWS = 20
_LEAST_UNPAIRED = 4  # fewer give no 95% interval at all
_TAIL = 0.025

# Two-sided 95% quantiles of Student's t, 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z95 = 1.959964

Verdict = Literal["SAME", "FASTER", "SLOWER", "UNSURE"]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long queries took, in milliseconds, from when they were due.

    Attributes:
        count: Queries.
        mean: Their mean.
        std: Their standard deviation (of the sample).
        min: The shortest.
        p50: Half of them took no longer; and so on.
        p90: 90%.
        p95: 95%.
        p99: 99%.
        p99_9: 99.9%.
        max: The longest.
    """

    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float

    def is_supported(self, percentile: str) -> bool:
        """Whether at least five queries took longer: else a percentile is little more than the longest one."""
        return self.count * (1 - PERCENTILES[percentile] / 100) >= _FEW


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Images a second.

    Attributes:
        images_per_s: All images by all of their time.
        low: Lower end of the 95% confidence interval of the windows' mean (Student's t).
        high: Its upper end.
        windows: Each window's own.
        spread: The largest distance of a window from the windows' median, as a share of it.
    """

    images_per_s: float
    low: float
    high: float
    windows: tuple[float, ...]
    spread: float

    @property
    def is_steady(self) -> bool:
        """Whether no window lies more than 5% from their median."""
        return self.spread <= STEADY


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as much one thing does as another, both measured in turn.

    Attributes:
        ratio: The middle of the windows' ratios.
        low: Lower end of its 95% confidence interval; 0 where there are too few windows for one.
        high: Its upper end; infinite where there are too few.
        windows: How many windows of each.
        is_error: Whether it cannot be: the first one contains the other, and came out faster beyond the interval.
    """

    ratio: float
    low: float
    high: float
    windows: int
    is_error: bool = False

    def verdict(self, tolerance: float) -> Verdict:
        """What that says of the first one.

        `SAME`: the whole interval lies within the tolerance of 1. `FASTER`, `SLOWER`: it does not reach 1, and
        the ratio lies beyond the tolerance. `UNSURE`: neither; more time may decide.

        Args:
            tolerance: What nobody minds, as a share, such as 0.05.
        """
        if self.low >= 1 - tolerance and self.high <= 1 + tolerance:
            return "SAME"
        if self.low > 1 and self.ratio > 1 + tolerance:
            return "FASTER"
        if self.high < 1 and self.ratio < 1 - tolerance:
            return "SLOWER"
        return "UNSURE"


def student_t95(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t, within 1e-3; infinite without a degree of freedom."""
    if freedom < 1:
        return math.inf
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95  # the first terms of the Cornish-Fisher expansion
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def latency_of(latencies_ms: Sequence[float] | npt.NDArray[np.float64]) -> Latency | None:
    """The figures of latencies; None where there are none."""
    values = np.asarray(latencies_ms, np.float64)
    if not values.size:
        return None
    found = dict(zip(PERCENTILES, map(float, np.percentile(values, list(PERCENTILES.values()))), strict=True))
    return Latency(
        count=int(values.size),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if values.size > 1 else 0.0,
        min=float(values.min()),
        max=float(values.max()),
        **found,
    )


def throughput_of(windows: Sequence[Window]) -> Throughput | None:
    """The throughput of windows; None where nothing was answered. A single long one is cut into pieces."""
    counted = [window for window in windows if window.images and window.seconds > 0]
    if not counted:
        return None
    rates = pieces(counted[0]) if len(counted) == 1 else tuple(one.images_per_s for one in counted)
    low, high = mean_interval(rates)
    middle = float(np.median(rates))
    return Throughput(
        images_per_s=sum(one.images for one in counted) / sum(one.seconds for one in counted),
        low=max(0.0, low),
        high=high,
        windows=rates,
        spread=max(abs(rate - middle) for rate in rates) / middle if middle else math.inf,
    )


def pieces(window: Window, most: int = _MOST_WINDOWS) -> tuple[float, ...]:
    """Images a second in equal pieces of a long window, 20 images each or more; itself if it is short."""
    count = min(most, len(window.ends_s) // _MOST_WINDOWS)
    if count < 2:
        return (window.images_per_s,)
    start_s = window.started_s
    edges = np.linspace(start_s, start_s + window.seconds, count + 1)
    answered, _ = np.histogram(np.asarray(window.ends_s), edges)
    return tuple((answered / (window.seconds / count)).tolist())


def latency_pieces(window: Window, most: int = _MOST_WINDOWS) -> tuple[float, ...]:
    """The median latency in equal pieces of a long window, in milliseconds, by when queries were due."""
    count = min(most, len(window.queries) // _MOST_WINDOWS)
    if not window.ends_s or count < 2:
        return ()
    queries = sorted(window.queries)
    shares = np.array_split(np.array([query.latency_ms for query in queries]), count)
    return tuple(float(np.median(share)) for share in shares)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95% confidence interval of the mean of independent values; endless for fewer than two."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return -math.inf, math.inf
    half = student_t95(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """How many times as much `ours` are as `theirs`, window by window; None where there are none.

    The median of the ratios, with the interval of the sign test (Hollander, Wolfe, Chicken 2014, 3.5 and 3.6): it
    assumes nothing of how they are spread, and with ten windows one that was disturbed does not move it.

    Args:
        ours: Rates of windows that were measured in turn with those of `theirs`; what has no partner is left out.
        theirs: The others.
    """
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=False) if one > 0 and other > 0]
    if not pairs:
        return None
    logs = np.log([one / other for one, other in pairs])
    rank = _sign_test_rank(len(logs))
    return _ratio(logs, max(0, rank), len(logs), is_enough=rank >= 0)


def _sign_test_rank(count: int) -> int:
    """How many values may be left out at each end of so many, at most 2.5% of all chances; -1: not even none."""
    rank, chance = -1, 0.0
    while True:
        chance += math.comb(count, rank + 1) / 2**count
        if chance > _TAIL:
            return rank
        rank += 1


def unpaired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """The same for windows that were not measured in turn, as of two runs.

    The Hodges-Lehmann shift, with the interval of the Mann-Whitney-Wilcoxon test (the same, 4.2 and 4.3).
    """
    logs = [np.log([value for value in side if value > 0]) for side in (ours, theirs)]
    one, other = (len(side) for side in logs)
    if not one or not other:
        return None
    rank = one * other / 2 - _Z95 * math.sqrt(one * other * (one + other + 1) / 12)
    is_enough = min(one, other) >= _LEAST_UNPAIRED
    at = max(0, math.floor(rank))
    return _ratio(np.subtract.outer(*logs).ravel(), at, min(one, other), is_enough=is_enough)


def _ratio(logs: npt.NDArray[np.float64], at: int, windows: int, *, is_enough: bool) -> Ratio:
    """The median of logarithms, and those that lie so far from both ends."""
    logs = np.sort(logs)
    low, high = (float(logs[at]), float(logs[-1 - at])) if is_enough else (-math.inf, math.inf)
    return Ratio(
        ratio=math.exp(float(np.median(logs))), low=math.exp(low), high=math.exp(high), windows=windows
    )
