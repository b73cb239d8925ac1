"""The range of a tensor that int8 shall represent, chosen from its histogram. Arrays in, numbers out.

A method says what is weighed against what: rounding, which a small range keeps fine, against clipping, which it
makes worse. Knows no models.

    minmax      clips nothing
    percentile  clips one value in ten thousand
    mse         the least squared error
    l2.4        the least error to the power 2.4, which weighs clipping more; as QDrop (Wei et al., 2022) does
    entropy     the least information lost (Kullback and Leibler), as TensorRT's own calibrator does
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Method = Literal["minmax", "percentile", "mse", "l2.4", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_PERCENTILE = 0.9999
_POWER: dict[Method, float] = {"mse": 2.0, "l2.4": 2.4}
_SHARES = np.geomspace(0.02, 1.0, 160)  # of the largest range, tried in turn
_ENTROPY_BINS = 2048
_ENTROPY_LEVELS = 128
_ENTROPY_STEP = 16
_LEAST_RANGE = 1e-6

_Counts = npt.NDArray[np.float64]
_Centres = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values occur.

    Attributes:
        low: Lower edge of the first bin.
        high: Upper edge of the last bin.
        counts: (bins,) float64.
    """

    low: float
    high: float
    counts: _Counts

    @property
    def centres(self) -> _Centres:
        """(bins,) float64: the middle of each bin."""
        step = (self.high - self.low) / len(self.counts)
        return np.asarray(self.low + step * (np.arange(len(self.counts)) + 0.5), np.float64)


def raised(histogram: Histogram, floor: float) -> Histogram:
    """The histogram of values of which none is below the floor, since nothing tells those apart from it."""
    if histogram.low >= floor or histogram.high <= floor:
        return histogram
    values = np.maximum(histogram.centres, floor)
    counts, _ = np.histogram(values, len(values), (floor, histogram.high), weights=histogram.counts)
    return Histogram(floor, histogram.high, counts.astype(np.float64))


def symmetric_limit(histogram: Histogram, method: Method) -> float:
    """The largest magnitude to represent: int8 with zero point 0 covers -limit to limit."""
    magnitude = np.abs(histogram.centres)
    largest = max(abs(histogram.low), abs(histogram.high), _LEAST_RANGE)
    if method == "minmax":
        return largest
    if method == "percentile":
        return max(_quantile(magnitude, histogram.counts, _PERCENTILE), _LEAST_RANGE)
    if method == "entropy":
        return _entropy_limit(magnitude, histogram.counts, largest)
    limits = largest * _SHARES
    return float(limits[np.argmin([_symmetric_error(histogram, one, _POWER[method]) for one in limits])])


def asymmetric_range(histogram: Histogram, method: Method) -> tuple[float, float]:
    """The lowest and highest value to represent, 0 between them: uint8 with a zero point covers just these."""
    low, high = min(histogram.low, 0.0), max(histogram.high, _LEAST_RANGE)
    if method == "minmax":
        return low, high
    if method == "percentile":
        outside = (1 - _PERCENTILE) / 2
        return (
            min(_quantile(histogram.centres, histogram.counts, outside), 0.0),
            max(_quantile(histogram.centres, histogram.counts, 1 - outside), _LEAST_RANGE),
        )
    if method == "entropy":
        limit = symmetric_limit(histogram, method)
        return max(low, -limit), min(high, limit)
    high = _best(high * _SHARES, lambda one: _asymmetric_error(histogram, low, one, _POWER[method]))
    low = _best(low * _SHARES, lambda one: _asymmetric_error(histogram, one, high, _POWER[method]))
    return low, high


def quantized(values: npt.NDArray[np.float64], limit: float) -> npt.NDArray[np.float64]:
    """What symmetric int8 of that limit makes of values."""
    scale = limit / 127
    return np.asarray(np.clip(np.rint(values / scale), -128, 127) * scale)


def _best(candidates: npt.NDArray[np.float64], error: Callable[[float], float]) -> float:
    return float(candidates[np.argmin([error(float(one)) for one in candidates])])


def _symmetric_error(histogram: Histogram, limit: float, power: float) -> float:
    off = np.abs(histogram.centres - quantized(histogram.centres, limit))
    return float(histogram.counts @ off**power)


def _asymmetric_error(histogram: Histogram, low: float, high: float, power: float) -> float:
    scale = max(high - low, _LEAST_RANGE) / 255
    zero = np.rint(-low / scale)
    levels = np.clip(np.rint(histogram.centres / scale) + zero, 0, 255) - zero
    return float(histogram.counts @ np.abs(histogram.centres - levels * scale) ** power)


def _quantile(values: npt.NDArray[np.float64], counts: _Counts, share: float) -> float:
    """The value that this share of all lies below."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    index = int(np.searchsorted(below, share * below[-1]))
    return float(values[order][min(index, len(values) - 1)])


def _entropy_limit(magnitude: _Centres, counts: _Counts, largest: float) -> float:
    """S. Migacz, "8-bit inference with TensorRT", GTC 2017: the cut whose 128 levels tell the most."""
    bins, edges = np.histogram(magnitude, _ENTROPY_BINS, (0, largest), weights=counts)
    bins[0] = bins[1]  # zeros would outweigh everything: letterbox padding, ReLU
    if not bins.any():
        return largest
    stops = range(_ENTROPY_LEVELS, _ENTROPY_BINS + 1, _ENTROPY_STEP)
    return float(edges[min(stops, key=lambda stop: _divergence(bins, stop))])


def _divergence(bins: _Counts, stop: int) -> float:
    """Information lost when the first `stop` bins become 128 levels and what is above is clipped."""
    reference = bins[:stop].copy()
    reference[-1] += bins[stop:].sum()
    level = np.arange(stop) * _ENTROPY_LEVELS // stop
    filled = bins[:stop] > 0
    total = np.bincount(level, weights=bins[:stop], minlength=_ENTROPY_LEVELS)
    share = np.bincount(level, weights=filled, minlength=_ENTROPY_LEVELS)
    expanded = np.where(filled, (total / np.maximum(share, 1))[level], 0.0)
    p, q = reference / reference.sum(), expanded / max(expanded.sum(), 1e-12)
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))))
