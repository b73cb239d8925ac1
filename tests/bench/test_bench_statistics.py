"""Figures: known numbers, random ones with known answers, and what says nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trt_yolo.bench.statistics import (
    Ratio,
    Verdict,
    latency_of,
    latency_pieces,
    mean_interval,
    pieces,
    ratio_of,
    student_t95,
    throughput_of,
    unpaired_ratio,
)
from trt_yolo.bench.window import Query, Window


def test_latency_of_a_thousand_and_one_steps() -> None:
    found = latency_of([float(value) for value in range(1001)])
    assert found is not None
    assert (found.count, found.min, found.max, found.mean) == (1001, 0, 1000, 500)
    assert (found.p50, found.p90, found.p95, found.p99) == (500, 900, 950, 990)
    assert found.p99_9 == pytest.approx(999)
    assert found.std == pytest.approx(np.std(np.arange(1001), ddof=1))


@pytest.mark.parametrize(("count", "percentile", "is_supported"), [
    (9, "p50", False), (10, "p50", True), (499, "p99", False), (500, "p99", True), (5001, "p99_9", True),
    (4999, "p99_9", False),
])  # fmt: skip
def test_a_percentile_needs_queries_beyond_it(count: int, percentile: str, is_supported: bool) -> None:
    found = latency_of(np.ones(count))
    assert found is not None
    assert found.is_supported(percentile) == is_supported


def test_nothing_has_no_figures() -> None:
    assert latency_of([]) is None
    assert throughput_of([]) is None
    assert throughput_of([Window(started_s=0, seconds=1, images=0)]) is None
    assert ratio_of([], [1.0]) is None
    assert unpaired_ratio([1.0], []) is None
    one = latency_of([3.0])
    assert one is not None
    assert one.std == 0


def test_student_t_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 200):
        assert student_t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)
    assert student_t95(0) == math.inf


@pytest.mark.parametrize("count", [2, 5, 10, 40])
def test_the_interval_of_a_mean_holds_it_95_times_of_100(count: int) -> None:
    chance = np.random.default_rng(count)
    held = [
        low <= 7 <= high for low, high in (mean_interval(chance.normal(7, 2, count)) for _ in range(2000))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def _windows(rates: list[float]) -> list[Window]:
    return [Window(started_s=n, seconds=2.0, images=round(rate * 2)) for n, rate in enumerate(rates)]


def test_throughput_of_windows() -> None:
    found = throughput_of(_windows([100, 100, 104, 96, 100]))
    assert found is not None
    assert found.images_per_s == 100
    assert found.low < 100 < found.high
    assert found.spread == pytest.approx(0.04)
    assert found.is_steady
    unsteady = throughput_of(_windows([100, 100, 106, 100]))
    assert unsteady is not None
    assert not unsteady.is_steady


def test_a_single_window_has_no_interval() -> None:
    found = throughput_of(_windows([50]))
    assert found is not None
    assert (found.low, found.high) == (0, math.inf)


def test_a_long_window_is_cut_into_equal_pieces() -> None:
    """First 100 images a second, then 50."""
    ends_s = [10 + n / 100 for n in range(1, 401)] + [14 + n / 50 for n in range(1, 201)]
    window = Window(started_s=10, seconds=8, images=600, ends_s=ends_s)
    rates = pieces(window)
    assert len(rates) == 20
    assert rates[:9] == pytest.approx([100] * 9, rel=0.03)
    assert rates[11:] == pytest.approx([50] * 9, rel=0.06)
    assert pieces(Window(started_s=0, seconds=2, images=10, ends_s=ends_s[:10])) == (5.0,)


def test_latencies_of_pieces_are_by_when_queries_were_due() -> None:
    queries = [Query(n / 100, n / 100, n / 100 + (0.01 if n < 200 else 0.03)) for n in range(400)]
    window = Window(
        started_s=0, seconds=4, images=400, queries=queries[::-1], ends_s=[q.ended_s for q in queries]
    )
    found = latency_pieces(window)
    assert len(found) == 20
    assert found[:10] == pytest.approx([10] * 10)
    assert found[10:] == pytest.approx([30] * 10)


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize("count", [6, 10, 20])
def test_the_interval_of_a_ratio_holds_it_95_times_of_100(is_paired: bool, count: int) -> None:
    chance = np.random.default_rng(count)
    find = ratio_of if is_paired else unpaired_ratio
    held = 0
    for _ in range(1500):
        ours, theirs = np.exp(chance.normal(0, 0.05, (2, count)))
        found = find((1.1 * ours).tolist(), theirs.tolist())
        assert found is not None
        held += found.low <= 1.1 <= found.high
    assert 0.925 <= held / 1500 <= 0.99  # the sign test's is exact, and cannot hit 95% with so few


def test_a_disturbed_window_moves_no_ratio() -> None:
    theirs = [100.0, 101, 99, 100, 102, 98, 100, 101, 99, 100]
    ours = [value * 1.1 for value in theirs]
    ours[4] = 3.0
    found = ratio_of(ours, theirs)
    assert found is not None
    assert found.ratio == pytest.approx(1.1, rel=0.001)
    assert found.low > 1


def test_a_ratio_turned_round_is_its_inverse() -> None:
    chance = np.random.default_rng(1)
    ours, theirs = np.exp(chance.normal(0, 0.05, (2, 9))).tolist()
    one, other = ratio_of(ours, theirs), ratio_of(theirs, ours)
    assert one is not None
    assert other is not None
    assert one.ratio * other.ratio == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)


def test_few_windows_say_nothing_for_sure() -> None:
    found = ratio_of([110.0] * 5, [100.0] * 5)
    assert found is not None
    assert (found.low, found.high) == (0, math.inf)
    assert found.verdict(0.05) == "UNSURE"


@pytest.mark.parametrize(("ratio", "low", "high", "verdict"), [
    (1.00, 0.97, 1.03, "SAME"), (1.02, 1.01, 1.04, "SAME"), (1.10, 1.06, 1.14, "FASTER"),
    (1.10, 1.01, 1.20, "FASTER"), (0.90, 0.86, 0.94, "SLOWER"), (0.90, 0.80, 1.01, "UNSURE"),
    (1.04, 1.01, 1.08, "UNSURE"), (0.96, 0.90, 0.99, "UNSURE"), (1.00, 0.80, 1.20, "UNSURE"),
])  # fmt: skip
def test_verdicts(ratio: float, low: float, high: float, verdict: Verdict) -> None:
    assert Ratio(ratio=ratio, low=low, high=high, windows=10).verdict(0.05) == verdict
