"""Each method on histograms whose best range is known, and against brute force on the samples themselves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_yolo.precision.scales import METHODS, Histogram, Method, asymmetric_range, quantized, symmetric_limit

BINS = 2048
COUNT = 200_000
LEAST = 1e-6

Values = np.ndarray[Any, np.dtype[np.float64]]


def _normal(scale: float = 1.0) -> Values:
    return np.random.default_rng(0).normal(0, scale, COUNT)


def _outliers(share: float = 2e-5) -> Values:
    values = _normal()
    values[: int(share * COUNT)] = 40.0
    return values


def _silu() -> Values:
    values = _normal(3.0)
    return values / (1 + np.exp(-values))


def _uniform() -> Values:
    return np.random.default_rng(1).uniform(-1, 1, COUNT)


def _laplace() -> Values:
    return np.random.default_rng(2).laplace(0, 1, COUNT)


def _histogram(values: Values) -> Histogram:
    counts, _ = np.histogram(values, BINS, (values.min(), values.max()))
    return Histogram(float(values.min()), float(values.max()), counts.astype(np.float64))


def _asymmetrically_quantized(values: Values, low: float, high: float) -> Values:
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale


MADE: list[Callable[[], Values]] = [_normal, _outliers, _silu, _uniform, _laplace]


@pytest.fixture(params=MADE, ids=lambda make: make.__name__.strip("_"))
def values(request: pytest.FixtureRequest) -> Values:
    return request.param()


def test_minmax_is_exact(values: Values) -> None:
    histogram = _histogram(values)
    assert symmetric_limit(histogram, "minmax") == np.abs(values).max()
    assert asymmetric_range(histogram, "minmax") == (values.min(), values.max())


def test_percentile_clips_one_in_ten_thousand(values: Values) -> None:
    histogram = _histogram(values)
    bin_width = (histogram.high - histogram.low) / BINS
    limit = symmetric_limit(histogram, "percentile")
    assert np.mean(np.abs(values) > limit + bin_width) <= 1e-4 <= np.mean(np.abs(values) >= limit - bin_width)
    low, high = asymmetric_range(histogram, "percentile")
    assert np.mean(values > high + bin_width) <= 0.5e-4 <= np.mean(values >= high - bin_width)
    assert np.mean(values < low - bin_width) <= 0.5e-4 <= np.mean(values <= low + bin_width)


@pytest.mark.parametrize(("method", "power"), [("mse", 2.0), ("l2.4", 2.4)])
def test_least_error_is_that_of_brute_force(values: Values, method: Method, power: float) -> None:
    def error(limit: float) -> float:
        return float(np.mean(np.abs(values - quantized(values, limit)) ** power))

    best = min(error(one) for one in np.linspace(0.01, 1, 150) * np.abs(values).max())
    assert error(symmetric_limit(_histogram(values), method)) <= 1.03 * best


@pytest.mark.parametrize(("method", "power"), [("mse", 2.0), ("l2.4", 2.4)])
def test_least_asymmetric_error_is_that_of_brute_force(values: Values, method: Method, power: float) -> None:
    samples = values[-40_000:].copy()
    samples[:2] = values.min(), values.max()  # an outlier's weight is not in question here

    def error(low: float, high: float) -> float:
        return float(np.mean(np.abs(samples - _asymmetrically_quantized(samples, low, high)) ** power))

    shares = np.geomspace(0.05, 1, 24)
    best = min(error(low, high) for low in shares * samples.min() for high in shares * samples.max())
    assert error(*asymmetric_range(_histogram(samples), method)) <= 1.05 * best


@pytest.mark.parametrize(
    ("make", "lowest", "highest"),
    [(_outliers, 3.0, 8.0), (_normal, 3.0, 4.7), (_uniform, 0.9, 1.0), (_laplace, 4.0, 13.0)],
)
def test_entropy_cuts_what_is_rare_and_no_more(
    make: Callable[[], Values], lowest: float, highest: float
) -> None:
    limit = symmetric_limit(_histogram(make()), "entropy")
    assert lowest <= limit <= highest


def test_entropy_does_not_look_at_the_zeros() -> None:
    values = _normal()
    padded = np.concatenate([values, np.zeros(50 * COUNT)])
    plain = symmetric_limit(_histogram(values), "entropy")
    assert symmetric_limit(_histogram(padded), "entropy") == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("low", "high", "counts"),
    [
        (0.0, 0.0, [100.0, *[0.0] * 2047]),
        (0.0, 0.0, [100.0]),
        (5.0, 5.0, [100.0, *[0.0] * 2047]),
        (-5.0, -5.0, [100.0, *[0.0] * 2047]),
        (-3.0, -1.0, [1.0] * 2048),
        (1.0, 3.0, [1.0] * 2048),
        (0.0, 1e-9, [1.0] * 2048),
        (-1e30, 1e30, [1.0] * 2048),
        (0.0, 1.0, [1.0] * 2047 + [1e12]),
    ],
    ids=["zeros", "zeros in one bin", "5", "-5", "negative", "positive", "tiny", "huge", "at the end"],
)
def test_odd_histograms(method: Method, low: float, high: float, counts: list[float]) -> None:
    histogram = Histogram(low, high, np.array(counts))
    largest = max(abs(low), abs(high), LEAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limit = symmetric_limit(histogram, method)
        lowest, highest = asymmetric_range(histogram, method)
    assert 0 < limit <= largest * (1 + 1e-9)
    assert -largest <= lowest <= 0 <= highest <= largest
    assert lowest < highest
    if low == high != 0 or high == -low > 0 or method == "minmax":
        assert limit == pytest.approx(largest, rel=0.02)
    if low >= 0:
        assert lowest == 0
    if high <= 0:
        assert highest <= LEAST
    if low == high == -5:
        assert lowest == pytest.approx(-5, rel=0.02)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [2.0**-8, 2.0, 1024.0])
def test_range_grows_with_the_values(method: Method, factor: float) -> None:
    values = _silu()
    one, other = _histogram(values), _histogram(values * factor)
    assert symmetric_limit(other, method) == pytest.approx(factor * symmetric_limit(one, method), rel=1e-6)
    np.testing.assert_allclose(
        asymmetric_range(other, method), np.multiply(asymmetric_range(one, method), factor), rtol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_sign_does_not_matter_to_symmetric_limits(method: Method) -> None:
    values = _silu()
    mirrored = symmetric_limit(_histogram(-values), method)
    assert symmetric_limit(_histogram(values), method) == pytest.approx(mirrored, rel=0.01)


@pytest.mark.parametrize("make", [_normal, _outliers, _laplace])
def test_heavier_weight_of_clipping_clips_less(make: Callable[[], Values]) -> None:
    histogram = _histogram(make())
    limits = [symmetric_limit(histogram, method) for method in ("mse", "l2.4", "minmax")]
    assert limits[0] < limits[1] < limits[2]


def test_more_outliers_are_clipped_less() -> None:
    limits = [symmetric_limit(_histogram(_outliers(share)), "mse") for share in (1e-5, 1e-4, 1e-3, 1e-2)]
    assert limits == sorted(limits)
    assert limits[0] < 30 < 38 < limits[-1]


@pytest.mark.parametrize(
    ("value", "wanted"), [(0.0, 0.0), (0.3, 0.0), (0.7, 1.0), (126.6, 127.0), (1e9, 127.0), (-1e9, -128.0)]
)
def test_quantized(value: float, wanted: float) -> None:
    assert quantized(np.array([value]), 127.0)[0] == wanted
    assert quantized(np.array([value / 4]), 127.0 / 4)[0] == wanted / 4


@st.composite
def _histograms(draw: st.DrawFn) -> Histogram:
    low = draw(st.floats(-1e6, 1e6, width=32))
    high = low + draw(st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 50.0, 1e6]))
    bins = draw(st.sampled_from([1, 7, 256, 2048]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = np.floor(rng.random(bins) ** draw(st.sampled_from([1, 20, 200])) * 1e6)
    counts[rng.integers(bins)] += 1
    return Histogram(low, high, counts)


@settings(max_examples=150, deadline=None)
@given(histogram=_histograms(), method=st.sampled_from(METHODS))
def test_ranges_are_sound(histogram: Histogram, method: Method) -> None:
    largest = max(abs(histogram.low), abs(histogram.high), LEAST)
    limit = symmetric_limit(histogram, method)
    assert np.isfinite(limit)
    assert 0 < limit <= largest * (1 + 1e-9)
    low, high = asymmetric_range(histogram, method)
    assert min(histogram.low, 0) <= low <= 0 <= high <= max(histogram.high, LEAST)
    assert np.isfinite([low, high]).all()
    assert high > low
