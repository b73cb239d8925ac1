"""What a bench says of a pipeline that takes as long as it was told, on a simulated clock: it must be exact.

On a real one, see `benchmarks/known_service_times.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.pipeline import Clock, Pipeline
from tests.bench.subjects import SimulatedSubject, null_subject
from trt_yolo.bench.loads import Scenario, poisson_arrivals
from trt_yolo.bench.measure import Schedule, find_rate
from trt_yolo.bench.report import SCOPES, FoundRate
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.statistics import Latency, latency_of
from trt_yolo.bench.subject import Layout
from trt_yolo.bench.window import Window
from trt_yolo.runtime.results import Policy

SINGLE = Scenario(name="single-stream")
FIXED = [100.0]
BIMODAL = [100.0, 100.0, 100.0, 100.0, 200.0]


def _latency(window: Window) -> Latency:
    found = latency_of([query.latency_ms for query in window.queries])
    assert found is not None
    return found


def _served(
    clock: Clock, services_ms: Sequence[float], scenario: Scenario, *, seed: int = 0
) -> FilesToDetections:
    model: Any = Pipeline(clock, [one / 1e3 for one in services_ms])
    return FilesToDetections(model, [Path("a.jpg")], scenario, seed=seed)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("delays_ms", [FIXED, BIMODAL], ids=["fixed", "bimodal"])
def test_percentiles_of_a_closed_loop(
    scope: str, delays_ms: list[float], paths: list[Path], clock: Clock
) -> None:
    with SimulatedSubject("a", clock, delays_ms, Layout(), paths) as subject:
        window = subject.contender(scope, SINGLE, seed=0).window(60.0)
    found = _latency(window)
    wanted = np.resize(delays_ms, found.count)
    for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(wanted, share)), name
    assert found.mean == pytest.approx(wanted.mean())
    assert window.images_per_s == pytest.approx(1e3 / wanted.mean())


@pytest.mark.parametrize("batch", [1, 4])
def test_throughput_of_a_bare_engine(batch: int, paths: list[Path], clock: Clock) -> None:
    """Of `e2e` and `infer` with several workers, see `test_flow`."""
    with SimulatedSubject("a", clock, [40.0], Layout(batch=batch), paths) as subject:
        window = subject.contender("engine", Scenario(name="offline"), seed=0).window(1.0)
    assert window.images_per_s == pytest.approx(batch * 1e3 / 40, rel=1e-3)
    assert window.stages is not None
    assert window.stages.infer == pytest.approx(40, rel=1e-3)


@pytest.mark.parametrize("scope", ["infer", "engine"])
def test_a_query_of_several_images_takes_as_many_batches(scope: str, paths: list[Path], clock: Clock) -> None:
    """Five frames in batches of two: three batches, one after another."""
    with SimulatedSubject("a", clock, [50.0], Layout(batch=2), paths) as subject:
        window = subject.contender(scope, Scenario(name="multi-stream", count=5), seed=0).window(1.0)
    assert _latency(window).p50 == pytest.approx(150)
    assert window.images == 5 * len(window.queries)


def _queue_ms(arrivals_s: Sequence[float], services_ms: Sequence[float]) -> list[float]:
    """What one server that takes them in turn makes of it: arithmetic."""
    free_s, latencies_ms = 0.0, []
    for number, due_s in enumerate(arrivals_s):
        free_s = max(free_s, due_s) + services_ms[number % len(services_ms)] / 1e3
        latencies_ms.append((free_s - due_s) * 1e3)
    return latencies_ms


@pytest.mark.parametrize("services_ms", [[50.0], [25.0, 25.0, 25.0, 125.0]], ids=["fixed", "bimodal"])
def test_a_server_has_the_latencies_of_a_queue(services_ms: list[float], clock: Clock) -> None:
    rate, seconds = 13.0, 60.0
    window = _served(clock, services_ms, Scenario(name="server", rate=rate), seed=7).window(seconds)
    wanted_ms = _queue_ms(poisson_arrivals(rate, seconds, seed=7), services_ms)
    found = _latency(window)
    assert found.count == len(wanted_ms) == window.offered
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(wanted_ms, share), rel=0.001), name


def test_a_stall_shows_in_a_server_and_not_in_a_closed_loop(clock: Clock) -> None:
    stalled = [5.0] * 100 + [1000.0] + [5.0] * 10_000
    window = _served(clock, stalled, Scenario(name="server", rate=50)).window(4.0)
    closed = _served(clock, stalled, SINGLE).window(4.0)
    assert _latency(closed).max == pytest.approx(1000)
    assert _latency(closed).p99 == pytest.approx(5)
    assert _latency(window).p50 < 20
    wanted_ms = _queue_ms(poisson_arrivals(50, 4.0, seed=0), stalled)
    assert _latency(window).p99 == pytest.approx(np.percentile(wanted_ms, 99), rel=0.001)
    assert _latency(window).p99 > 800


def test_waiting_to_be_sent_is_waiting(clock: Clock) -> None:
    """More arrive than can be served: the queue outgrows the slots, and sending itself waits."""
    window = _served(clock, [50.0], Scenario(name="server", rate=40), seed=3).window(2.0)
    wanted_ms = _queue_ms(poisson_arrivals(40, 2.0, seed=3), [50.0])
    assert _latency(window).max == pytest.approx(max(wanted_ms), rel=0.001)
    assert max(query.begun_s - query.due_s for query in window.queries) > 0.5  # they could not even be sent


def test_a_queue_without_end_is_cut(clock: Clock) -> None:
    window = _served(clock, [50.0], Scenario(name="server", rate=400), seed=3).window(2.0)
    assert window.is_cut
    assert window.images + window.dropped == window.offered
    assert window.dropped > 100


def test_the_age_of_a_frame_counts_from_when_the_camera_had_it(paths: list[Path], clock: Clock) -> None:
    """10 frames a second, of which every fifth is answered late, and holds up the next one."""
    model: Any = Pipeline(clock, [0.04, 0.04, 0.04, 0.04, 0.15])
    contender = FilesToDetections(model, paths, Scenario(name="cameras", fps=10))
    window = contender.window(2.0)
    assert (window.offered, window.images, window.dropped, window.lost) == (20, 20, 0, 0)
    ages_ms = [query.latency_ms for query in window.queries]
    assert ages_ms[:5] == pytest.approx([40, 40, 40, 40, 150], abs=0.05)
    assert ages_ms[5:7] == pytest.approx([90, 40], abs=0.05)


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_cameras_that_are_too_fast_drop_frames_and_lose_none(policy: Policy, paths: list[Path]) -> None:
    """On the real clock: as many threads as cameras."""
    scenario = Scenario(name="cameras", count=3, fps=100, policy=policy)
    with null_subject([40.0], paths) as subject:
        window = subject.contender("e2e", scenario, seed=0).window(0.5)
    assert window.offered == 150 == window.images + window.dropped
    assert window.dropped > 0
    assert window.lost == 0


def _found(clock: Clock, service_ms: float, limit_ms: float) -> FoundRate:
    *_, found = find_rate(
        lambda scenario, seed: _served(clock, [service_ms], scenario, seed=seed),
        limit_ms=limit_ms,
        schedule=Schedule(seconds=2.0),
        seed=1,
        say=lambda _: None,
    )
    return found


def test_the_rate_that_is_found_is_the_rate_that_holds(clock: Clock) -> None:
    """A queue of fixed service: the 99th percentile of a rate is known, and so is where it crosses the limit."""
    found = _found(clock, 10.0, limit_ms=60.0)
    assert found.rate == max(trial.rate for trial in found.trials if trial.held)
    for number, trial in enumerate(found.trials):
        arrivals_s = poisson_arrivals(trial.rate, max(2.0, 200 / trial.rate), seed=1 + number)
        p99_ms = float(np.percentile(_queue_ms(arrivals_s, [10.0]), 99))
        assert trial.p99_ms == pytest.approx(p99_ms, rel=0.001)
        assert trial.held == (p99_ms <= 60)


def test_a_limit_that_nothing_keeps(clock: Clock) -> None:
    found = _found(clock, 50.0, limit_ms=20.0)
    assert found.rate is None
    assert not any(trial.held for trial in found.trials)
