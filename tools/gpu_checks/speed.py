"""What the measurements of the bench have in common: what is measured, for how long, and rows of ratios."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_checks.candidates import Candidate
from gpu_checks.job import Job, Report
from gpu_checks.record import Row
from trt_yolo.bench.measuring import Measured, Plan
from trt_yolo.bench.scenario import Scenario
from trt_yolo.bench.statistics import Ratio, ratio_of
from trt_yolo.bench.subject import Layout, Subject, open_subject
from trt_yolo.bench.window import Contender
from trt_yolo.telemetry import Mark, PowerMeter

OFFLINE = Scenario(name="offline")

_ORDER = (
    "tensorrt", "tensorrt-rtx", "onnxruntime tensorrt", "onnxruntime cuda", "onnxruntime nv-tensorrt-rtx",
    "onnxruntime cpu",
)  # fmt: skip
_PRECISIONS = ("fp16", "fp32", "int8")
_UNITS = 60.0  # of the part's time: some 40 contenders, loading, warming up
_LEAST_S, _MOST_S = 0.3, 6.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What is measured.

    Attributes:
        paths: Image files.
        plan: For how long each contender is measured.
        report: Where rows go.
        counts: Whether goals count: they are those of a GPU.
    """

    paths: Sequence[Path]
    plan: Plan
    report: Report
    counts: bool

    def subject(self, candidate: Candidate, *, gpu: dict[str, Any] | None = None, **layout: Any) -> Subject:
        """A candidate laid out in one way."""
        options = {} if candidate.provider == "cpu" else gpu or {}
        settings = Layout(gpu=candidate.gpu(**options), **layout)
        return open_subject(str(candidate.path), settings, self.paths, candidate.label)


def plan_for(job: Job) -> Plan:
    """For how long each of the part's contenders is measured."""
    seconds = _LEAST_S if job.quick else min(_MOST_S, max(_LEAST_S, job.left_s / _UNITS))
    return Plan(seconds=seconds, windows=8, min_count=10, warm_up_s=max(0.2, seconds / 3))


def best_of(known: Sequence[Candidate], *, is_dynamic: bool) -> Candidate | None:
    """What a user would deploy: TensorRT before others, FP16 before FP32."""
    fitting = [one for one in known if one.is_dynamic == is_dynamic]

    def rank(one: Candidate) -> tuple[int, int]:
        return _ORDER.index(one.runs_on), _PRECISIONS.index(one.precision)

    return min(fitting, key=rank, default=None)


def ratio(measured: Measured, one: int, other: int) -> Ratio | None:
    """How many times as fast one contender is as another; None where too little was measured."""
    return ratio_of(measured.seen[one].rates, measured.seen[other].rates)


def rate(measured: Measured, index: int) -> float:
    """Images a second of a contender, the middle of its windows."""
    return statistics.median(measured.seen[index].rates)


def ratio_row(name: str, found: Ratio | None, note: str) -> Row:
    """A ratio with its interval."""
    if found is None:
        return Row(name=name, state="absent", note=f"too little was measured; {note}")
    return Row(name=name, value=found.ratio, low=found.low, high=found.high, note=note)


class Metered:
    """A context around each window, in which the meter is read at both ends of one contender's.

    Args:
        meter: Measures power.
        wanted: The contender.
    """

    def __init__(self, meter: PowerMeter, wanted: Contender) -> None:
        self._meter, self._wanted = meter, wanted
        self._marks: list[tuple[Mark, Mark]] = []

    @contextlib.contextmanager
    def __call__(self, contender: Contender) -> Iterator[None]:
        begun = self._meter.mark()
        yield
        if contender is self._wanted:
            self._marks.append((begun, self._meter.mark()))

    @property
    def watts(self) -> float | None:
        """What the machine drew in those windows, mean; None where nobody knows."""
        return self._meter.watts(self._marks) if self._marks else None
