"""The runtime beside the bare engine: throughput by batch, latency added, and layouts beside each other."""

from __future__ import annotations

import contextlib
import statistics
from typing import NamedTuple

import numpy as np

from gpu_checks.candidates import Candidate
from gpu_checks.record import Row, goal_row
from gpu_checks.speed import OFFLINE, Metered, Speed, rate, ratio
from trt_yolo.bench.measuring import Measured, measure
from trt_yolo.bench.scenario import Scenario
from trt_yolo.bench.statistics import Ratio
from trt_yolo.bench.window import Contender, Named, Window
from trt_yolo.errors import TrtYoloError
from trt_yolo.telemetry import Nvml, PowerMeter

_BATCHES = (1, 2, 4, 8, 16)
# workers, streams, graphs; the first is the default
_ON_GPU = (
    (1, 2, True), (1, 1, True), (1, 3, True), (2, 2, True), (3, 2, True), (3, 1, True), (1, 2, False), (1, 1, False),
)  # fmt: skip
_ON_CPU = ((1, 1, True), (2, 1, True))


class Throughput(NamedTuple):
    """What a batch size does.

    Attributes:
        batch: Images a batch.
        runtime: Images a second from frames in shared memory to rows.
        engine: Images a second of the bare engine.
        ratio: Of both, in turn.
        watts: What the machine drew meanwhile; None where nobody knows.
    """

    batch: int
    runtime: float
    engine: float
    ratio: Ratio | None
    watts: float | None


def runtime_beside_engine(speed: Speed, candidate: Candidate) -> Throughput:
    """Every batch size, in turn with the bare engine; the best of them."""
    batches = [size for size in _BATCHES if candidate.batch.minimum <= size <= candidate.batch.maximum]
    seen = [_throughput(speed, candidate, batch) for batch in batches or [candidate.batch.minimum]]
    best = max(seen, key=lambda one: one.runtime)
    found = best.ratio
    speed.report(
        goal_row(
            "runtime / bare engine, best batch",
            None if found is None else found.ratio,
            ">= 0.95",
            low=None if found is None else found.low,
            high=None if found is None else found.high,
            note=f"batch {best.batch}, {best.runtime:.0f} of {best.engine:.0f} images/s",
            counts=speed.counts,
        )
    )
    if best.watts:
        per_watt = Row(
            name="images/s per watt, best batch", value=best.runtime / best.watts, note=f"{best.watts:.0f} W"
        )
        speed.report(per_watt)
    _gpu_state(speed)
    return best


def _throughput(speed: Speed, candidate: Candidate, batch: int) -> Throughput:
    with speed.subject(candidate, batch=batch, workers=1) as subject, PowerMeter() as meter:
        contenders = [subject.contender(scope, OFFLINE, seed=0) for scope in ("infer", "engine")]
        metered = Metered(meter, contenders[0])
        measured = measure(contenders, speed.plan, around=metered)
        watts = metered.watts
    found = Throughput(batch, rate(measured, 0), rate(measured, 1), ratio(measured, 0, 1), watts)
    power = f", {watts:.0f} W, {found.runtime / watts:.1f} images/s per watt" if watts else ""
    speed.report(
        Row(
            name=f"batch {batch}: frames in shared memory to rows",
            value=found.runtime,
            unit="images/s",
            note=f"bare engine {found.engine:.0f} images/s{power}",
        )
    )
    return found


def _gpu_state(speed: Speed) -> None:
    """Clocks, power and what holds them back, just after load."""
    with Nvml() as nvml:
        for one in nvml.readings():
            held = ", ".join(one.throttled_by or ()) or "nothing"
            speed.report(
                Row(
                    name=f"GPU {one.index} after load",
                    value=one.sm_mhz,
                    unit="MHz",
                    note=f"of {one.max_sm_mhz} MHz, {one.power_w} of {one.power_limit_w} W, {one.temperature_c} C, "
                    f"held back by {held}",
                )
            )


def latency_added(speed: Speed, candidate: Candidate) -> None:
    """What a worker adds to a call of the bare engine, batch 1, one at a time."""
    if candidate.batch.minimum > 1:
        return
    scenario = Scenario(name="single-stream")
    with speed.subject(candidate, batch=1, workers=1) as subject:
        contenders = [subject.contender(scope, scenario, seed=0) for scope in ("infer", "engine")]
        measured = measure(contenders, speed.plan)
    ours_ms, bare_ms = (
        [_median_ms(window) for window in seen.windows if window.queries] for seen in measured.seen
    )
    added_ms = [one - other for one, other in zip(ours_ms, bare_ms, strict=False)]
    if not added_ms:
        return
    speed.report(
        goal_row(
            "batch 1: latency added to the bare engine call, p50",
            statistics.median(added_ms),
            "<= 0.15",
            unit="ms",
            low=min(added_ms),
            high=max(added_ms),
            counts=speed.counts,
            note=f"{statistics.median(ours_ms):.2f} against {statistics.median(bare_ms):.2f} ms, {candidate.label}; "
            "low and high of the windows",
        )
    )


def _median_ms(window: Window) -> float:
    return float(np.median([query.latency_ms for query in window.queries]))


def layouts(speed: Speed, candidate: Candidate, batch: int, *, on_gpu: bool) -> None:
    """Workers, streams and graphs in turn, all of them loaded; and whether the default is the best of them."""
    with contextlib.ExitStack() as stack:
        contenders: list[Contender] = []
        for workers, streams, graphs in _ON_GPU if on_gpu else _ON_CPU:
            name = _layout_name(workers, streams, graphs) if on_gpu else _layout_name(workers)
            try:
                gpu = {"streams": streams, "graphs": graphs}
                subject = stack.enter_context(speed.subject(candidate, gpu=gpu, batch=batch, workers=workers))
                contenders.append(Named(subject.contender("infer", OFFLINE, seed=0), name))
            except TrtYoloError as error:
                speed.report(Row(name=name, state="failed", note=str(error)))
        if contenders:
            _tell_layouts(speed, measure(contenders, speed.plan))


def _layout_name(workers: int, streams: int = 0, graphs: bool = False) -> str:
    name = f"{workers} worker{'s' if workers > 1 else ''}"
    if not streams:
        return name
    return f"{name} x {streams} stream{'s' if streams > 1 else ''}, graphs {'on' if graphs else 'off'}"


def _tell_layouts(speed: Speed, measured: Measured) -> None:
    rates = [rate(measured, index) for index in range(len(measured.seen))]
    for index, seen in enumerate(measured.seen):
        found = ratio(measured, index, 0)
        note = f"{rates[index] / rates[0]:.2f} of the default; interval of that" if index else "the default"
        speed.report(
            Row(
                name=seen.name,
                value=rates[index],
                unit="images/s",
                low=None if found is None or not index else found.low,
                high=None if found is None or not index else found.high,
                note=note,
            )
        )
    best = max(range(len(rates)), key=rates.__getitem__)
    name = "the default beside the best layout"
    note = f"{measured.seen[best].name} does {rates[best] / rates[0]:.2f} times as much"
    speed.report(
        Row(name=name, value=rates[0] / rates[best], note=note if best else "the default is the best")
    )
