"""What a bench says: runs, their figures, ratios; as one object for JSON, whose schema docs/bench.md describes.

Enters: windows and facts. Leaves: plain values. Knows no terminal and no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trt_yolo.bench.figures import Figures
from trt_yolo.bench.statistics import Ratio, Verdict

SCHEMA = 1
TOOL = "trt-yolo bench"
SCOPES = ("e2e", "infer", "engine")
_DIGITS = 5  # significant ones: more was not measured


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Which model was measured.

    Attributes:
        name: What tables call it.
        path: The file that was run; empty where there was none.
        sha256: Its hash; empty where there was none.
        graph: `deploy` or `head`.
        precision: `fp32`, `fp16` or `int8`.
        imgsz: Height and width of its input, in pixels.
        map50_95: Accuracy that its export measured; None where none did.
        map50_95_before: Of the float model beside it.
        judged_by: What was held true then: `labels`, or the float model's detections; empty where nothing was.
    """

    name: str
    path: str
    sha256: str
    graph: str
    precision: str
    imgsz: tuple[int, int]
    map50_95: float | None = None
    map50_95_before: float | None = None
    judged_by: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model was laid out.

    Attributes:
        batch: The most images a batch.
        workers: Worker processes; 0: in this process.
        threads: CPU threads of one inference.
        decode_threads: Threads that decode and letterbox.
        streams: Batches of an engine under way at once, in each worker; None without an engine.
        devices: GPUs; none without an engine.
    """

    batch: int
    workers: int
    threads: int
    decode_threads: int
    streams: int | None = None
    devices: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """In a few words."""
        parts = [f"batch {self.batch}", f"{self.workers} workers" if self.workers else "in process"]
        parts.append(f"{self.threads} threads" if self.streams is None else f"{self.streams} streams")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A rate that was tried.

    Attributes:
        rate: Arrivals a second.
        p99_ms: Latency from when a request was due; None where too little was answered.
        held: Whether it stayed within the limit.
    """

    rate: float
    p99_ms: float | None
    held: bool


@dataclass(frozen=True, kw_only=True)
class FoundRate:
    """The highest rate that holds.

    Attributes:
        limit_ms: What the 99th percentile may be.
        rate: Arrivals a second; None where even the lowest did not hold.
        trials: What was tried, in that order.
    """

    limit_ms: float
    rate: float | None
    trials: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What it costs to lose workers.

    Attributes:
        every_s: Seconds from one kill to the next.
        kills: Workers that were killed.
        restarts: Workers that were replaced.
        ready_ms: From a kill until as many workers are ready as before, the middle one; None where none was seen.
        cost: Share of the throughput that was lost, beside the same without kills, measured in turn.
        cost_low: Lower end of its 95% interval.
        cost_high: Its upper end.
        offered: Images that were sent.
        errors: Of those, answered with an error.
        lost: Of those, never answered, or twice: must be 0.
    """

    every_s: float
    kills: int
    restarts: int
    ready_ms: float | None
    cost: float | None
    cost_low: float | None
    cost_high: float | None
    offered: int
    errors: int
    lost: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model, laid out in one way, under one load.

    Attributes:
        model: Which.
        setting: How it was laid out.
        scenario: The load: its name and numbers.
        scopes: Figures by scope.
        peers: Figures by peer, on the same images.
        ratios: Of throughputs, by `ONE/OTHER`.
        find_rate: The highest rate that holds, where that was asked for.
        recovery: What lost workers cost, where that was asked for.
        partial: Whether it was interrupted.
    """

    model: ModelFacts
    setting: Setting
    scenario: Mapping[str, Any]
    scopes: Mapping[str, Figures]
    peers: Mapping[str, Figures] = field(default_factory=dict)
    ratios: Mapping[str, Ratio] = field(default_factory=dict)
    find_rate: FoundRate | None = None
    recovery: Recovery | None = None
    partial: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(dataclasses.replace(self, scopes={}, peers={}))
        values["scopes"] = {name: figures.to_dict() for name, figures in self.scopes.items()}
        values["peers"] = {name: figures.to_dict() for name, figures in self.peers.items()}
        return values


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One thing beside another.

    Attributes:
        model: The first one.
        other: The other one.
        scenario: Under which load.
        scope: In which scope.
        setting: How the first one was laid out.
        ratio: How many times as fast the first one is.
        verdict: What that says.
    """

    model: str
    other: str
    scenario: str
    scope: str
    setting: str
    ratio: Ratio
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the ratio's among them."""
        return {**dataclasses.asdict(self), **dataclasses.asdict(self.ratio)}


@dataclass(frozen=True, kw_only=True)
class AgainstBaseline:
    """Now beside an earlier result.

    Attributes:
        path: Its file.
        created: When it was measured.
        tolerance: What nobody minds, as a share.
        comparisons: The first one is now, the other one then.
        notes: What differs besides: machine, versions, settings.
        regressed: Whether anything is SLOWER.
    """

    path: str
    created: str
    tolerance: float
    comparisons: tuple[Compared, ...]
    notes: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether anything is SLOWER."""
        return any(one.verdict == "SLOWER" for one in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        comparisons = [one.to_dict() for one in self.comparisons]
        return {**dataclasses.asdict(self), "comparisons": comparisons, "regressed": self.regressed}


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best of a sweep, as indices of runs.

    Attributes:
        throughput: The most images a second.
        latency: The most images a second of those within the latency limit; None where none is, or none was given.
        limit_ms: That limit, for the 99th percentile.
    """

    throughput: int
    latency: int | None = None
    limit_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of a bench.

    Attributes:
        created: Date and time, ISO 8601, UTC.
        version: trt-yolo's.
        command: The command line.
        seed: Of arrivals, and of which worker is killed.
        images: Images that were taken round and round.
        data: Where they came from.
        machine: What it ran on.
        yardstick: Work a second of a fixed piece of work, in turn with the rest: the machine's own speed.
        runs: What was measured.
        comparisons: Models beside each other.
        baseline: An earlier result beside this one.
        best: Of a sweep.
        refused: Settings of a sweep that could not be, and why.
        advice: What follows, in words.
        partial: Whether it was interrupted.
    """

    created: str
    version: str
    command: str
    seed: int
    images: int
    data: str
    machine: Mapping[str, Any]
    yardstick: tuple[float, ...]
    runs: tuple[Run, ...]
    comparisons: tuple[Compared, ...] = ()
    baseline: AgainstBaseline | None = None
    best: Best | None = None
    refused: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    partial: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: numbers rounded to what was measured; null where there is none."""
        plain = {
            "tool": TOOL,
            "schema": SCHEMA,
            **{
                one.name: getattr(self, one.name)
                for one in dataclasses.fields(self)
                if one.name not in ("runs", "comparisons", "baseline", "best")
            },
            "best": dataclasses.asdict(self.best) if self.best is not None else None,
            "baseline": self.baseline.to_dict() if self.baseline is not None else None,
            "comparisons": [one.to_dict() for one in self.comparisons],
            "runs": [run.to_dict() for run in self.runs],
        }
        rounded: dict[str, Any] = _plain(plain)
        return rounded


def _plain(value: Any) -> Any:
    """The same for JSON, which knows neither infinity nor tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        number = float(value)
        return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None
    return value
