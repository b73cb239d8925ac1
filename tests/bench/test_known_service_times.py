"""What a bench says of a backend that computes nothing and takes as long as it was told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import trt_yolo
from tests.bench.subjects import null_subject, on_a_noisy_machine
from trt_yolo.bench.loads import Scenario, poisson_arrivals
from trt_yolo.bench.measure import Plan, find_rate
from trt_yolo.bench.report import SCOPES
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.statistics import Latency, latency_of, ratio_of
from trt_yolo.bench.window import Window

SINGLE = Scenario(name="single-stream")
OFFLINE = Scenario(name="offline")
FIXED = [100.0]
BIMODAL = [100.0, 100.0, 100.0, 100.0, 200.0]


def _latency(window: Window) -> Latency:
    found = latency_of([query.latency_ms for query in window.queries])
    assert found is not None
    return found


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("delays_ms", [FIXED, BIMODAL], ids=["fixed", "bimodal"])
@on_a_noisy_machine
def test_percentiles_of_a_closed_loop(scope: str, delays_ms: list[float], paths: list[Path]) -> None:
    with null_subject(delays_ms, paths) as subject:
        window = subject.contender(scope, SINGLE, seed=0).window(2.4)
    found = _latency(window)
    wanted = np.resize(delays_ms, found.count)
    for name, share in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(wanted, share), rel=0.02), name
    assert found.mean == pytest.approx(wanted.mean(), rel=0.02)
    assert window.images_per_s == pytest.approx(1e3 / wanted.mean(), rel=0.02)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("workers", "batch"), [(0, 1), (0, 4), (2, 1), (2, 4)])
@on_a_noisy_machine
def test_throughput_of_offline(scope: str, workers: int, batch: int, paths: list[Path]) -> None:
    with null_subject([40.0], paths, batch=batch, workers=workers) as subject:
        window = subject.contender(scope, OFFLINE, seed=0).window(1.0)
    assert window.images_per_s == pytest.approx(max(1, workers) * batch * 1e3 / 40, rel=0.03)
    assert (window.lost, window.errors) == (0, 0)


@pytest.mark.parametrize("scope", SCOPES)
@on_a_noisy_machine
def test_a_query_of_several_images_takes_as_many_batches(scope: str, paths: list[Path]) -> None:
    """Five frames in batches of two: three batches, one after another."""
    with null_subject([50.0], paths, batch=2) as subject:
        window = subject.contender(scope, Scenario(name="multi-stream", count=5), seed=0).window(1.0)
    assert _latency(window).p50 == pytest.approx(150, rel=0.02)
    assert window.images == 5 * len(window.queries)


class Around(NamedTuple):
    """What the pipeline puts around a service, in milliseconds: where it holds up the next one, and where not."""

    between: float
    beside: float


NOTHING = Around(0, 0)


def _queue_ms(
    arrivals_s: Sequence[float], services_ms: Sequence[float], around: Around = NOTHING
) -> list[float]:
    """What one server that takes them in turn makes of it: arithmetic."""
    free_s, latencies_ms = 0.0, []
    for number, due_s in enumerate(arrivals_s):
        free_s = max(free_s, due_s) + (services_ms[number % len(services_ms)] + around.between) / 1e3
        latencies_ms.append((free_s - due_s) * 1e3 + around.beside)
    return latencies_ms


def _around(paths: list[Path], service_ms: float) -> Around:
    """As closed loops say: of one image at a time, and of as many as can be."""
    with null_subject([service_ms], paths) as subject:
        alone_ms = _latency(subject.contender("e2e", SINGLE, seed=0).window(0.5)).p50
        between_ms = 1e3 / subject.contender("e2e", OFFLINE, seed=0).window(0.8).images_per_s - service_ms
    return Around(between_ms, alone_ms - service_ms - between_ms)


@pytest.mark.parametrize("services_ms", [[50.0], [25.0, 25.0, 25.0, 125.0]], ids=["fixed", "bimodal"])
@on_a_noisy_machine
def test_a_server_has_the_latencies_of_a_queue(services_ms: list[float], paths: list[Path]) -> None:
    rate, seconds = 13.0, 5.0
    with null_subject(services_ms, paths) as subject:
        window = subject.contender("e2e", Scenario(name="server", rate=rate), seed=7).window(seconds)
    wanted_ms = _queue_ms(poisson_arrivals(rate, seconds, seed=7), services_ms, _around(paths, 50.0))
    found = _latency(window)
    assert found.count == len(wanted_ms) == window.offered
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        assert getattr(found, name) == pytest.approx(np.percentile(wanted_ms, share), rel=0.02), name


@on_a_noisy_machine
def test_a_stall_shows_in_a_server_and_not_in_a_closed_loop(paths: list[Path]) -> None:
    stalled = [5.0] * 100 + [1000.0] + [5.0] * 10_000
    with null_subject(stalled, paths) as subject:
        window = subject.contender("e2e", Scenario(name="server", rate=50), seed=0).window(4.0)
    with null_subject(stalled, paths) as subject:
        closed = subject.contender("e2e", SINGLE, seed=0).window(4.0)
    assert _latency(closed).max > 1000
    assert _latency(closed).p99 < 20
    assert _latency(window).p99 > 800
    assert _latency(window).p50 < 20
    wanted_ms = _queue_ms(poisson_arrivals(50, 4.0, seed=0), stalled)
    assert _latency(window).p99 == pytest.approx(np.percentile(wanted_ms, 99), rel=0.02)


@on_a_noisy_machine
def test_waiting_to_be_sent_is_waiting(paths: list[Path]) -> None:
    """More arrive than can be served: the queue outgrows the slots, and sending itself waits."""
    with null_subject([50.0], paths) as subject:
        window = subject.contender("e2e", Scenario(name="server", rate=40), seed=3).window(2.0)
    wanted_ms = _queue_ms(poisson_arrivals(40, 2.0, seed=3), [50.0], _around(paths, 50.0))
    assert _latency(window).max == pytest.approx(max(wanted_ms), rel=0.02)
    assert max(query.begun_s - query.due_s for query in window.queries) > 0.5  # they could not even be sent


def test_a_queue_without_end_is_cut(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.bench.loads._HOPELESS_S", 0.5)
    with null_subject([50.0], paths) as subject:
        window = subject.contender("e2e", Scenario(name="server", rate=400), seed=3).window(0.5)
    assert window.is_cut
    assert window.images + window.dropped == window.offered
    assert window.dropped > 100


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
@pytest.mark.parametrize(
    ("cameras", "fps", "service_ms"), [(2, 25.0, 40.0), (4, 20.0, 25.0)], ids=["half", "half of four"]
)
def test_cameras_drop_what_arithmetic_says(
    cameras: int, fps: float, service_ms: float, policy: str, paths: list[Path]
) -> None:
    seconds = 3.0
    scenario = Scenario(name="cameras", count=cameras, fps=fps, policy=policy)  # type: ignore[arg-type]
    with null_subject([service_ms], paths) as subject:
        window = subject.contender("e2e", scenario, seed=0).window(seconds)
    served = seconds * 1e3 / service_ms
    assert window.offered == seconds * fps * cameras
    assert window.offered == window.images + window.dropped
    assert served - 3 <= window.images <= served + 3 * cameras  # at the end each has some under way
    assert window.lost == 0


@on_a_noisy_machine
def test_cameras_that_can_be_served_drop_nothing(paths: list[Path]) -> None:
    scenario = Scenario(name="cameras", count=2, fps=10)
    with null_subject([40.0], paths) as subject:
        window = subject.contender("e2e", scenario, seed=0).window(2.0)
    assert (window.dropped, window.images) == (0, 40)
    assert _latency(window).p50 == pytest.approx(40, abs=2)  # they come in turn, and wait for nobody


@on_a_noisy_machine
def test_the_rate_that_is_found_is_the_rate_that_holds(paths: list[Path]) -> None:
    """A queue of fixed service: the 99th percentile of a rate is known, and so is where it crosses the limit."""
    limit_ms, service_ms = 60.0, 10.0
    with null_subject([service_ms], paths) as subject:

        def load_at(scenario: Scenario, seed: int) -> FilesToDetections:
            return FilesToDetections(subject.model, subject.paths, scenario, seed=seed)

        *_, found = find_rate(load_at, limit_ms=limit_ms, plan=Plan(seconds=2.0), seed=1, say=lambda _: None)
    assert found.rate is not None
    held = [trial.rate for trial in found.trials if trial.held]
    assert found.rate == max(held)
    for trial in found.trials:
        assert trial.p99_ms is not None
        assert trial.held == (trial.p99_ms <= limit_ms)
    p99_ms = float(np.percentile(_queue_ms(poisson_arrivals(found.rate, 200, seed=5), [service_ms]), 99))
    assert limit_ms / 2.5 < p99_ms < limit_ms * 2  # of 200 arrivals a 99th percentile says no more


def test_a_limit_that_nothing_keeps(paths: list[Path]) -> None:
    with null_subject([50.0], paths) as subject:

        def load_at(scenario: Scenario, seed: int) -> FilesToDetections:
            return FilesToDetections(subject.model, subject.paths, scenario, seed=seed)

        plan = Plan(seconds=0.2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trt_yolo.bench.measure._LONGEST_S", 0.5)
            *_, found = find_rate(load_at, limit_ms=20.0, plan=plan, seed=1, say=lambda _: None)
    assert found.rate is None
    assert not any(trial.held for trial in found.trials)


@on_a_noisy_machine
def test_single_stream_agrees_with_a_plain_loop(demo_onnx: Path, paths: list[Path]) -> None:
    """The model of the demo, windows of both in turn."""
    plain: list[float] = []
    benched: list[float] = []
    with trt_yolo.load(demo_onnx) as model:
        contender = FilesToDetections(model, paths, SINGLE)
        contender.window(0.5)
        for _ in range(9):
            benched.append(contender.window(0.25).images_per_s)
            start_s, count = time.perf_counter(), 0
            while time.perf_counter() - start_s < 0.25:
                model(paths[count % len(paths)])
                count += 1
            plain.append(count / (time.perf_counter() - start_s))
    ratio = ratio_of(benched, plain)
    assert ratio is not None
    assert ratio.ratio == pytest.approx(1, abs=0.03)
