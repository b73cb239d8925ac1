"""What is counted of answers that come in bunches, on the clock of a pipeline whose speed is known."""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bench.pipeline import Clock, Pipeline
from trt_yolo.bench.flow import ROUNDS, SETTLING, Flow
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.recovery import WithKills
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.scope_engine import BareEngine
from trt_yolo.bench.scope_infer import SlotToSlot
from trt_yolo.bench.window import Contender, Window
from trt_yolo.errors import BackendError

OFFLINE = Scenario(name="offline")
SERVICE_S = 0.275
PHASES = {  # of a service time
    "in step": lambda worker, workers: 0.0,
    "nearly in step": lambda worker, workers: 0.035 * worker,
    "in halves": lambda worker, workers: worker % 2 / 2,
    "out of step": lambda worker, workers: worker / workers,
}


def _pipeline(clock: Clock, workers: int, batch: int, phase: str) -> Pipeline:
    phases_s = [SERVICE_S * PHASES[phase](worker, workers) for worker in range(workers)]
    return Pipeline(clock, [SERVICE_S], workers, batch, phases_s)


def _contender(scope: str, pipeline: Pipeline) -> Contender:
    if scope == "infer":
        return SlotToSlot(pipeline.slots(), OFFLINE)
    model: Any = pipeline
    return FilesToDetections(model, [Path("a.jpg")], OFFLINE)


def _errors(clock: Clock, scope: str, workers: int, batch: int) -> Iterator[tuple[float, Window]]:
    """Of windows of 3 to 300 answers, as a share: how much more was said than is done."""
    for phase in PHASES:
        for answers in (3, 4, 5, 7, 10, 16, 23, 37, 55, 90, 140, 211, 300):
            pipeline = _pipeline(clock, workers, batch, phase)
            window = _contender(scope, pipeline).window(answers * batch / pipeline.images_per_s)
            yield window.images_per_s / pipeline.images_per_s - 1, window


@pytest.mark.parametrize("scope", ["e2e", "infer"])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_bunches_are_not_counted_twice(scope: str, workers: int, clock: Clock) -> None:
    found = [one for batch in (1, 2, 3, 4, 8) for one in _errors(clock, scope, workers, batch)]
    errors = np.array([error for error, _ in found])
    assert np.abs(errors).max() < 0.002  # 1% are asked for
    assert abs(errors.mean()) < 0.0002  # no sign is preferred
    assert all(window.lost == 0 for _, window in found)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_window_holds_so_many_answers_of_each_worker(workers: int, clock: Clock) -> None:
    pipeline = _pipeline(clock, workers, 2, "in step")
    window = _contender("e2e", pipeline).window(0.1)
    assert window.images >= ROUNDS * workers * 2
    assert window.started_s >= SERVICE_S  # the first answers are not counted


def test_what_got_slower_while_it_got_going_does_not_count(clock: Clock) -> None:
    """The first quarter of the time is left out; after it, one answer each 10 ms."""
    flow = Flow(4.0, round_images=1)
    while not flow.is_over:
        clock.now_s += 0.05 if clock.now_s < 0.9 else 0.01
        flow.note()
    window = flow.window()
    assert window.images_per_s == pytest.approx(100, rel=1e-3)
    assert window.seconds == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("first_s", [0.0, 0.3, 0.9])
def test_evenly_spaced_losses_count_as_many_wherever_they_lie(first_s: float, clock: Clock) -> None:
    """A worker that is killed every 2 s and is away for 0.5: a quarter is lost."""
    flow = Flow(4.0 / 0.75, round_images=1)
    while not flow.is_over:
        clock.now_s += 0.001
        if (clock.now_s - first_s) % 2.0 >= 0.5:
            flow.note()
    assert flow.window().images_per_s == pytest.approx(750, rel=0.005)


@pytest.mark.parametrize("counted", [1.0, 1 - SETTLING])
def test_whole_periods_of_kills_are_counted(counted: float) -> None:
    asked_s: list[float] = []
    contender: Any = types.SimpleNamespace(window=asked_s.append)
    model: Any = types.SimpleNamespace(ready_pids=[], workers=0)
    killing = WithKills(contender, model, every_s=0.5, seed=0, counted=counted)
    for seconds in (0.1, 1.0, 2.0, 3.1):
        killing.window(seconds)
    periods = [counted * seconds / 0.5 for seconds in asked_s]
    assert periods == pytest.approx([2, 2, 4, 6] if counted == 1 else [2, 2, 3, 5])


@pytest.mark.timeout(30)
@pytest.mark.parametrize("broken", [0, 1])
def test_a_session_that_fails_ends_the_others(broken: int) -> None:
    def fail() -> None:
        raise BackendError("no memory")

    calls: list[Callable[[], None]] = [
        functools.partial(time.sleep, 0.001),
        functools.partial(time.sleep, 0.001),
    ]
    calls[broken] = fail
    batch = types.SimpleNamespace(minimum=1)
    backends: Any = [
        types.SimpleNamespace(
            manifest=types.SimpleNamespace(batch=batch), bare_call=lambda *_, call=call, **__: call
        )
        for call in calls
    ]
    engine = BareEngine(backends, np.zeros((1, 8, 8, 3), np.uint8), batch=1, scenario=OFFLINE)
    with pytest.raises(BackendError, match="no memory"):
        engine.window(60)
