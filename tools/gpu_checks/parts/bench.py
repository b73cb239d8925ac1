"""How fast it is: the runtime beside the bare engine, latency, the host's work, layouts, files, Ultralytics, power.

What is compared is measured in turn, window by window, in this one process; the ratio's interval says how sure it is.
Goals are those of a GPU: a rehearsal only says what it measured.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import decode_speed
import numpy as np
import numpy.typing as npt

from gpu_checks.candidates import Candidate, candidates
from gpu_checks.images import image_files
from gpu_checks.job import Job, Report
from gpu_checks.record import Row, goal_row
from trt_yolo.bench.measuring import Measured, Plan, measure
from trt_yolo.bench.peers.choosing import chosen_peers, open_peers
from trt_yolo.bench.runtime import null_model
from trt_yolo.bench.scenario import Scenario
from trt_yolo.bench.statistics import Ratio, ratio_of
from trt_yolo.bench.subject import Layout, Subject, open_subject
from trt_yolo.bench.window import Contender, Window
from trt_yolo.cores import available_cores
from trt_yolo.errors import TrtYoloError
from trt_yolo.telemetry import Mark, Nvml, PowerMeter

_BATCHES = (1, 2, 4, 8, 16)
_ORDER = (
    "tensorrt",
    "tensorrt-rtx",
    "onnxruntime tensorrt",
    "onnxruntime cuda",
    "onnxruntime nv-tensorrt-rtx",
    "onnxruntime cpu",
)
_PRECISIONS = ("fp16", "fp32", "int8")
_UNITS = 60.0  # of the part's time: some 40 windows' contenders, loading, warming up
_LEAST_S, _MOST_S = 0.3, 6.0
_NULL_BATCH = 8
Frame = npt.NDArray[np.uint8]

_OFFLINE = Scenario(name="offline")


@dataclass(frozen=True)
class Layouts:
    """Ways to lay a model out that are compared: workers, streams, graphs; the first is the default."""

    on_gpu: tuple[tuple[int, int, bool], ...] = (
        (1, 2, True), (1, 1, True), (1, 3, True), (2, 2, True), (3, 2, True), (3, 1, True), (1, 2, False),
        (1, 1, False),
    )  # fmt: skip
    on_cpu: tuple[tuple[int, int, bool], ...] = ((1, 1, True), (2, 1, True))


def run(job: Job, report: Report) -> None:
    """See the module."""
    known = candidates(job, report)
    if job.rehearse:  # a processor computes FP16 in FP32, with conversions
        known = [one for one in known if one.precision == "fp32"] or known
    dynamic, static = _best(known, is_dynamic=True), _best(known, is_dynamic=False)
    paths = image_files(job)
    plan = _plan(job)
    report(_host_work(plan, counts=not job.rehearse))
    if dynamic is not None or static is not None:
        chosen = dynamic or static
        assert chosen is not None
        report(
            Row(
                name="measured",
                value=chosen.label,
                note=f"{len(paths)} images, windows of {plan.window_s:.2f} s",
            )
        )
        batch, rate = _runtime_beside_engine(chosen, paths, plan, report, counts=not job.rehearse)
        _latency(static or chosen, paths, plan, report, counts=not job.rehearse)
        _layouts(chosen, batch, paths, plan, report, on_gpu=not job.rehearse)
        _files(chosen, batch, rate, paths, plan, report)
        _decoders(paths, report)
        alike = _best([one for one in known if one.precision == "fp32"], is_dynamic=chosen.is_dynamic)
        _ultralytics(alike or chosen, batch, paths, plan, job, report)


def _best(known: Sequence[Candidate], *, is_dynamic: bool) -> Candidate | None:
    """What a user would deploy: TensorRT before others, FP16 before FP32."""
    fitting = [one for one in known if one.is_dynamic == is_dynamic]
    return min(
        fitting, key=lambda one: (_ORDER.index(one.runs_on), _PRECISIONS.index(one.precision)), default=None
    )


def _plan(job: Job) -> Plan:
    seconds = _LEAST_S if job.quick else min(_MOST_S, max(_LEAST_S, job.left_s / _UNITS))
    return Plan(seconds=seconds, windows=8, min_count=10, warm_up_s=max(0.2, seconds / 3))


class _Named:
    """A contender under another name, whose windows a meter stands at both ends of."""

    def __init__(self, inner: Contender, name: str) -> None:
        self.inner, self.name, self.is_continuous = inner, name, inner.is_continuous

    def window(self, seconds: float) -> Window:
        return self.inner.window(seconds)


def _subject(candidate: Candidate, paths: Sequence[Path], **layout: object) -> Subject:
    gpu = {key: layout.pop(key) for key in ("streams", "graphs") if key in layout}
    if candidate.provider == "cpu":
        gpu = {}
    settings = Layout(gpu=candidate.gpu(**gpu), **layout)  # type: ignore[arg-type]
    return open_subject(str(candidate.path), settings, paths, candidate.label)


def _ratio(measured: Measured, one: int, other: int) -> Ratio | None:
    return ratio_of(measured.seen[one].rates, measured.seen[other].rates)


def _rate(measured: Measured, index: int) -> float:
    return statistics.median(measured.seen[index].rates)


def _runtime_beside_engine(
    candidate: Candidate, paths: Sequence[Path], plan: Plan, report: Report, *, counts: bool
) -> tuple[int, float]:
    """The best batch, and the bare engine's images a second with it."""
    batches = [size for size in _BATCHES if candidate.batch.minimum <= size <= candidate.batch.maximum]
    best, best_rate, best_row = batches[0], 0.0, None
    for batch in batches:
        with _subject(candidate, paths, batch=batch, workers=1) as subject, PowerMeter() as meter:
            contenders = [subject.contender(scope, _OFFLINE, seed=0) for scope in ("infer", "engine")]
            metered = _Metered(meter, contenders[0])
            measured = measure(contenders, plan, around=metered)
            watts = metered.watts
        ratio, rate = _ratio(measured, 0, 1), _rate(measured, 1)
        ours = _rate(measured, 0)
        report(
            Row(
                name=f"batch {batch}: frames in shared memory to rows",
                value=ours,
                unit="images/s",
                note=f"bare engine {rate:.0f} images/s" + _power_note(ours, watts),
            )
        )
        if ours > best_rate:
            best, best_rate = batch, ours
            best_row = goal_row(
                "runtime / bare engine, best batch",
                None if ratio is None else ratio.ratio,
                ">= 0.95",
                low=None if ratio is None else ratio.low,
                high=None if ratio is None else ratio.high,
                note=f"batch {batch}, {ours:.0f} of {rate:.0f} images/s",
                counts=counts,
            )
            engine_rate, best_watts = rate, watts
    assert best_row is not None
    report(best_row)
    if best_watts:
        report(
            Row(
                name="images/s per watt, best batch", value=best_rate / best_watts, note=f"{best_watts:.0f} W"
            )
        )
    _gpu_state(report)
    return best, engine_rate


class _Metered:
    """A context around each window, in which the meter is read at both ends of one contender's."""

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
        """What the machine drew in those windows, mean."""
        return self._meter.watts(self._marks) if self._marks else None


def _power_note(rate: float, watts: float | None) -> str:
    return f", {watts:.0f} W, {rate / watts:.1f} images/s per watt" if watts else ""


def _gpu_state(report: Report) -> None:
    """Clocks, power and what holds them back, just after load."""
    with Nvml() as nvml:
        for one in nvml.readings():
            held = ", ".join(one.throttled_by or ()) or "nothing"
            report(
                Row(
                    name=f"GPU {one.index} after load",
                    value=one.sm_mhz,
                    unit="MHz",
                    note=f"of {one.max_sm_mhz} MHz, {one.power_w} of {one.power_limit_w} W, {one.temperature_c} C, "
                    f"held back by {held}",
                )
            )


def _latency(
    candidate: Candidate, paths: Sequence[Path], plan: Plan, report: Report, *, counts: bool
) -> None:
    """What a worker adds to a call of the bare engine, batch 1, one at a time."""
    if candidate.batch.minimum > 1:
        return
    scenario = Scenario(name="single-stream")
    with _subject(candidate, paths, batch=1, workers=1) as subject:
        contenders = [subject.contender(scope, scenario, seed=0) for scope in ("infer", "engine")]
        measured = measure(contenders, plan)
    ours, bare = (
        [query.latency_ms for one in seen.windows for query in one.queries] for seen in measured.seen
    )
    if not ours or not bare:
        return
    added = [
        float(
            np.median([q.latency_ms for q in one.queries]) - np.median([q.latency_ms for q in other.queries])
        )
        for one, other in zip(measured.seen[0].windows, measured.seen[1].windows, strict=False)
    ]
    report(
        goal_row(
            "batch 1: latency added to the bare engine call, p50",
            statistics.median(added),
            "<= 0.15",
            unit="ms",
            low=min(added),
            high=max(added),
            counts=counts,
            note=f"{np.median(ours):.2f} against {np.median(bare):.2f} ms, {candidate.label}; low, high of windows",
        )
    )


def _host_work(plan: Plan, *, counts: bool) -> Row:
    """CPU time of program and worker for an image that nothing computes, less its copy into the slot."""
    frames = [np.full((640, 640, 3), number, np.uint8) for number in range(16)]
    program_us: list[float] = []
    worker_us: list[float] = []
    with null_model(_NULL_BATCH, workers=1) as model:
        (worker,) = model.stats().workers
        for window in range(plan.windows + 1):
            begun_s, worker_s = time.process_time(), _cpu_s(worker.pid)
            images, copied_s = 0, 0.0
            for result in model.stream(_for_seconds(frames, max(0.2, plan.window_s)), ordered=False):
                images += 1
                copied_s += result.times.letterbox / 1e3 if result.times is not None else 0.0
            if window:  # the first one warms up
                program_us.append((time.process_time() - begun_s - copied_s) / images * 1e6)
                worker_us.append((_cpu_s(worker.pid) - worker_s) / images * 1e6)
    both = [one + other for one, other in zip(program_us, worker_us, strict=True)]
    return goal_row(
        "host work an image, outside decode and letterbox",
        statistics.median(both),
        "<= 60",
        unit="us",
        low=min(both),
        high=max(both),
        counts=counts,
        note=f"CPU time, a backend that computes nothing, batch 8: program {statistics.median(program_us):.0f} us, "
        f"worker {statistics.median(worker_us):.0f} us, its waiting included; low and high of the windows",
    )


def _for_seconds(frames: Sequence[Frame], seconds: float) -> Iterator[Frame]:
    """The frames, round and round, for so long."""
    until_s = time.perf_counter() + seconds
    for frame in itertools.cycle(frames):
        if time.perf_counter() > until_s:
            return
        yield frame


def _cpu_s(pid: int) -> float:
    """CPU time of another process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _layouts(
    candidate: Candidate, batch: int, paths: Sequence[Path], plan: Plan, report: Report, *, on_gpu: bool
) -> None:
    """Workers, streams and graphs in turn, all of them loaded; and whether the default is the best of them."""
    layouts = Layouts().on_gpu if on_gpu else Layouts().on_cpu
    with contextlib.ExitStack() as stack:
        contenders: list[Contender] = []
        names = []
        for workers, streams, graphs in layouts:
            name = f"{workers} worker{'s' if workers > 1 else ''}"
            name += (
                f" x {streams} stream{'s' if streams > 1 else ''}, graphs {'on' if graphs else 'off'}"
                if on_gpu
                else ""
            )
            try:
                subject = stack.enter_context(
                    _subject(candidate, paths, batch=batch, workers=workers, streams=streams, graphs=graphs)
                )
                contenders.append(_Named(subject.contender("infer", _OFFLINE, seed=0), name))
                names.append(name)
            except TrtYoloError as error:
                report(Row(name=name, state="failed", note=str(error)))
        if not contenders:
            return
        measured = measure(contenders, plan)
    rates = [_rate(measured, index) for index in range(len(names))]
    for index, name in enumerate(names):
        ratio = _ratio(measured, index, 0)
        report(
            Row(
                name=name,
                value=rates[index],
                unit="images/s",
                low=None if ratio is None else ratio.low,
                high=None if ratio is None else ratio.high,
                note="the default"
                if index == 0
                else f"{rates[index] / rates[0]:.2f} of the default; interval of that",
            )
        )
    best = max(range(len(names)), key=rates.__getitem__)
    note = (
        "the default is the best"
        if best == 0
        else f"{names[best]} does {rates[best] / rates[0]:.2f} times as much"
    )
    report(Row(name="the default beside the best layout", value=rates[0] / rates[best], note=note))


def _files(
    candidate: Candidate, batch: int, engine_rate: float, paths: Sequence[Path], plan: Plan, report: Report
) -> None:
    """From JPEG files with all cores, and how many cores the engine needs to be kept busy."""
    cores = len(available_cores())
    with _subject(candidate, paths, batch=batch, workers=1, decode_threads=cores) as subject:
        measured = measure([subject.contender("e2e", _OFFLINE, seed=0)], plan)
    stages = [window.stages for window in measured.seen[0].windows if window.stages is not None]
    rate = _rate(measured, 0)
    report(
        Row(name="JPEG files to detections, all cores", value=rate, unit="images/s", note=f"{cores} cores")
    )
    if stages:
        spent_ms = statistics.median(one.decode + one.letterbox for one in stages)
        report(
            Row(
                name="cores that keep the bare engine busy",
                value=engine_rate * spent_ms / 1e3,
                note=f"{spent_ms:.2f} ms an image to decode and letterbox, {engine_rate:.0f} images/s",
            )
        )


def _decoders(paths: Sequence[Path], report: Report) -> None:
    """The GPU's image decoder beside the processor's, in turn."""
    found = decode_speed.of_images(str(paths[0].parent / f"*{paths[0].suffix}"))
    report(
        Row(
            name="images decoded by the processor",
            value=found["cpu_per_s"],
            unit="images/s",
            note=f"{found['cpu_cpu_ms']} ms of CPU an image, {found['what']}",
        )
    )
    name = "images decoded: GPU / processor"
    if "gpu_over_cpu" not in found:
        report(Row(name=name, state="absent", note=found.get("gpu_not_measured", "")))
        return
    ratio, low, high = found["gpu_over_cpu"]
    note = f"{found['gpu_per_s']} images/s, {found['gpu_cpu_ms']} ms of CPU an image"
    report(Row(name=name, value=ratio, low=low, high=high, note=note))


def _ultralytics(
    candidate: Candidate, batch: int, paths: Sequence[Path], plan: Plan, job: Job, report: Report
) -> None:
    """Ultralytics' predict on the same images and weights, in turn; in FP32, as PyTorch computes."""
    name = "ours / Ultralytics' predict, JPEG files"
    if job.model is None or not job.model.endswith(".pt"):
        report(Row(name=name, state="absent", note="it needs the checkpoint: --model yolov8n.pt"))
        return
    weights = Path(job.model)
    try:
        with _subject(candidate, paths, batch=batch, workers=1) as subject:
            names, missing = chosen_peers(["ultralytics"], subject, weights)
            if not names:
                report(Row(name=name, state="absent", note="; ".join(missing)))
                return
            with open_peers(names, subject, weights) as peers:
                measured = measure([subject.contender("e2e", _OFFLINE, seed=0), *peers], plan)
    except TrtYoloError as error:
        report(Row(name=name, state="absent", note=str(error)))
        return
    ratio = _ratio(measured, 0, 1)
    report(
        Row(
            name=name,
            value=None if ratio is None else ratio.ratio,
            low=None if ratio is None else ratio.low,
            high=None if ratio is None else ratio.high,
            note=f"{_rate(measured, 0):.0f} against {_rate(measured, 1):.0f} images/s, {candidate.label}",
        )
    )
