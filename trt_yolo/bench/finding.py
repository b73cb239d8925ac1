"""The highest rate of arrivals that keeps a latency limit: searched by halving.

Enters: how a rate is loaded. Leaves: `FoundRate`. Knows no models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from trt_yolo.bench.measuring import Plan, Progress, Say, warm_up
from trt_yolo.bench.result import FoundRate, Trial
from trt_yolo.bench.scenario import Scenario
from trt_yolo.bench.statistics import latency_of
from trt_yolo.bench.window import Contender

_CLOSE = 0.03
_MOST_TRIALS = 12
_LEAST_ARRIVALS = 200
_LONGEST_S = 60.0
_LOWEST = 0.05

LoadAt = Callable[[Scenario, int], Contender]


def find_rate(load_at: LoadAt, *, limit_ms: float, plan: Plan, seed: int, say: Say) -> Iterator[FoundRate]:
    """Tries rates below what a closed loop reaches, until they lie within 3% of each other; what is known after each.

    Args:
        load_at: The contender of a scenario and a seed.
        limit_ms: What the 99th percentile may be, in milliseconds, from when a request was due.
        plan: Each rate is tried for as long as that, and for 200 arrivals, but for a minute at most.
        seed: Of the arrivals; each trial has its own.
        say: Called after each trial.
    """
    offline = load_at(Scenario(name="offline"), seed)
    warm_up(offline, plan)
    capacity = offline.window(max(1.0, plan.seconds / 4)).images_per_s
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        trial = _tried(load_at, rate, limit_ms=limit_ms, plan=plan, seed=seed + len(trials))
        trials.append(trial)
        say(Progress(name=f"rate {rate:.4g}", share=len(trials) / _MOST_TRIALS, images_per_s=rate))
        return trial.held

    low, high = 0.0, capacity
    lowest = capacity * _LOWEST
    while len(trials) < _MOST_TRIALS and high > lowest and high - low > _CLOSE * high:
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
        yield FoundRate(limit_ms=limit_ms, rate=low or None, trials=tuple(trials))


def _tried(load_at: LoadAt, rate: float, *, limit_ms: float, plan: Plan, seed: int) -> Trial:
    scenario = dataclasses.replace(Scenario(name="server"), rate=rate)
    seconds = min(max(plan.seconds, _LEAST_ARRIVALS / rate), max(plan.seconds, _LONGEST_S))
    window = load_at(scenario, seed).window(seconds)
    latency = latency_of([query.latency_ms for query in window.queries])
    p99_ms = latency.p99 if latency is not None else None
    held = p99_ms is not None and p99_ms <= limit_ms and not window.is_cut and not window.errors
    return Trial(rate=rate, p99_ms=p99_ms, held=held)
