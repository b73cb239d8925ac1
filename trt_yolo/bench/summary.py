"""What a bench has seen, made into runs: figures, ratios, comparisons, the best of a sweep.

Enters: windows by run and contender. Leaves: `Run`, `Compared`, `Best`. Measures nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trt_yolo.bench.figures import Figures, Stages, WarmUp, figures_of
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.report import Best, Compared, FoundRate, ModelFacts, Recovery, Run, Setting
from trt_yolo.bench.statistics import Ratio, ratio_of, unpaired_ratio
from trt_yolo.bench.window import Window
from trt_yolo.hardware.power import PowerMeter

PEER = "peer:"
"""What the names of peers begin with, among those of scopes."""

_RATIOS = (("e2e", "engine"), ("e2e", "infer"), ("infer", "engine"))


@dataclass(eq=False)
class Sample:
    """What was seen of one contender of a run, all passes together.

    Attributes:
        windows: In order.
        warm_up: Of the first pass.
        began_s: When the run's first window began, `time.perf_counter`.
        marks: Of the power meter, before and after each window.
    """

    windows: list[Window] = field(default_factory=list)
    warm_up: WarmUp = field(default_factory=lambda: WarmUp(seconds=0.0, windows=0, is_steady=False))
    began_s: float = 0.0
    marks: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Collected:
    """One run while it is measured.

    Attributes:
        facts: Which model.
        setting: How it was laid out.
        scenario: Under which load.
        parts: How copy in, engine and copy out share a batch's time.
        samples: By contender.
    """

    facts: ModelFacts
    setting: Setting
    scenario: Scenario
    parts: Stages | None = None
    samples: dict[str, Sample] = field(default_factory=dict)
    found: FoundRate | None = None
    recovery: Recovery | None = None
    is_partial: bool = False


def run_of(one: Collected, meter: PowerMeter) -> Run:
    """A run, from what was seen."""
    figures = {
        name: figures_of(
            sample.windows,
            warm_up=sample.warm_up,
            began_s=sample.began_s,
            parts=one.parts,
            watts=meter.watts(sample.marks) if sample.marks else None,
        )
        for name, sample in one.samples.items()
        if sample.windows
    }
    return Run(
        model=one.facts,
        setting=one.setting,
        scenario=one.scenario.to_dict(),
        scopes={name: value for name, value in figures.items() if not name.startswith(PEER)},
        peers={name.removeprefix(PEER): value for name, value in figures.items() if name.startswith(PEER)},
        ratios=_ratios(figures, one.setting, one.scenario),
        find_rate=one.found,
        recovery=one.recovery,
        partial=one.is_partial,
    )


def _ratios(figures: Mapping[str, Figures], setting: Setting, scenario: Scenario) -> dict[str, Ratio]:
    """Of throughputs: e2e beside the other scopes and the peers, infer beside engine."""
    pairs = [pair for pair in _RATIOS if pair[0] in figures and pair[1] in figures]
    pairs += [("e2e", name) for name in figures if name.startswith(PEER) and "e2e" in figures]
    found: dict[str, Ratio] = {}
    for one, other in pairs:
        ours, theirs = figures[one].throughput, figures[other].throughput
        if ours is None or theirs is None:
            continue
        is_in_turn = not scenario.is_open or "e2e" not in (one, other)
        ratio = (ratio_of if is_in_turn else unpaired_ratio)(ours.windows, theirs.windows)
        if ratio is not None:
            is_error = ratio.low > 1 and _is_contained(other, setting, scenario)
            found[f"{one}/{other.removeprefix(PEER)}"] = dataclasses.replace(ratio, is_error=is_error)
    return found


def _is_contained(other: str, setting: Setting, scenario: Scenario) -> bool:
    """Whether whatever is beside it does all that it does, on no more sessions, so that it cannot be faster."""
    if other.startswith(PEER):
        return False
    if other == "infer":
        return True
    sessions = max(1, setting.workers) * (setting.streams or 1)
    if scenario.name in ("single-stream", "multi-stream"):  # the engine is asked by one session
        return scenario.name == "single-stream" or sessions == 1
    return setting.streams is None or sessions <= len(setting.devices)


def comparisons_of(runs: Sequence[Run], *, tolerance: float) -> Iterator[Compared]:
    """Every two models that were measured in turn."""
    for one, other in itertools.combinations(runs, 2):
        same = (one.setting, one.scenario) == (other.setting, other.scenario)
        if not same or one.model.name == other.model.name:
            continue
        for scope in one.scopes:
            if scope in other.scopes:
                ours, theirs = one.scopes[scope], other.scopes[scope]
                is_in_turn = not ours.latency_windows_ms
                ratio = (ratio_of if is_in_turn else unpaired_ratio)(ours.speeds, theirs.speeds)
                if ratio is not None:
                    yield Compared(
                        model=one.model.name,
                        other=other.model.name,
                        scenario=one.scenario["label"],
                        scope=scope,
                        setting=one.setting.label,
                        ratio=ratio,
                        verdict=ratio.verdict(tolerance),
                    )


def best_of(runs: Sequence[Run], limit_ms: float | None) -> Best | None:
    """The most images a second of a sweep, and the most within a latency limit.

    A setting keeps the limit if the 99th percentile of its queries does, in any load that has a latency.
    """
    scope = next(
        (name for name in ("e2e", "infer", "engine") if any(name in run.scopes for run in runs)), None
    )
    rated = [index for index, run in enumerate(runs) if scope in run.scopes and scope is not None]
    if scope is None or not rated:
        return None

    def rate(index: int) -> float:
        return runs[index].scopes[scope].images_per_s

    held = {
        runs[index].setting
        for index in rated
        if (latency := runs[index].scopes[scope].latency_ms) is not None
        and limit_ms is not None
        and latency.p99 <= limit_ms
    }
    within = [index for index in rated if runs[index].setting in held]
    return Best(
        throughput=max(rated, key=rate),
        latency=max(within, key=rate) if within else None,
        limit_ms=limit_ms,
    )
