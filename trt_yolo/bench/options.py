"""What a bench is asked for, checked before anything is measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.measure import Schedule
from trt_yolo.bench.peers.process import check_names
from trt_yolo.bench.report import SCOPES
from trt_yolo.bench.subject import Layout
from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions

_MOST_SETTINGS = 64
_UNITS_MS = {"ms": 1.0, "us": 1e-3, "s": 1e3}


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What a bench is asked for.

    Attributes:
        models: Whatever names a model; None: the demo model.
        scenarios: Loads; none: `single-stream` and `offline` (`multi-stream` of a batch in a sweep).
        layouts: Settings, at least one; several make a sweep.
        scopes: Of `report.SCOPES`.
        schedule: For how long, and how thoroughly.
        seed: Of arrivals, and of which worker is killed.
        find_rate: Whether to search the highest rate of `server` that holds.
        p99_ms: Limit of the 99th percentile, of `find_rate` and of a sweep.
        peers: Names of peers, or `all`.
        baseline: An earlier result.
        tolerance: What nobody minds in a comparison, as a share.
        kill_every_s: Kill a worker every so many seconds.

    Raises:
        InputError: What does not go together.
    """

    models: tuple[str | None, ...] = (None,)
    scenarios: tuple[Scenario, ...] = ()
    layouts: tuple[Layout, ...] = (Layout(),)
    scopes: tuple[str, ...] = SCOPES
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0
    find_rate: bool = False
    p99_ms: float | None = None
    peers: tuple[str, ...] = ()
    baseline: Path | None = None
    tolerance: float = 0.05
    kill_every_s: float | None = None

    def __post_init__(self) -> None:
        self._check_server()
        self._check_kills()
        if len(set(self.models)) < len(self.models):
            raise InputError("the same model twice; give different ones, or one with --baseline")
        self._check_peers()
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed {self.seed}; give a number from 0 to {2**32 - 1}")

    def _check_server(self) -> None:
        servers = [one for one in self.scenarios if one.name == "server"]
        if self.find_rate and not servers:
            raise InputError(
                "--find-rate is for the scenario server; add it: trt-yolo bench MODEL server ..."
            )
        if self.find_rate and self.p99_ms is None:
            raise InputError(
                "--find-rate needs a limit for the 99th percentile; give one, such as --p99 20ms"
            )
        if not self.find_rate and any(one.rate is None for one in servers):
            raise InputError("server needs --rate, arrivals a second, or --find-rate with --p99 20ms")
        if self.find_rate and len(self.models) > 1:
            raise InputError("--find-rate takes one model; give the others in runs of their own")

    def _check_peers(self) -> None:
        check_names(self.peers)
        if self.peers and self.is_sweep:
            raise InputError("--peers takes one setting; leave the lists out, or --peers")
        if self.peers and self.scenarios and not any(one.name == "offline" for one in self.scenarios):
            raise InputError("--peers are measured with offline; add it: trt-yolo bench MODEL offline ...")

    def _check_kills(self) -> None:
        if self.kill_every_s is None:
            return
        if not 0.2 <= self.kill_every_s <= 3600:
            raise InputError(
                f"--kill-worker-every {self.kill_every_s:g}; give seconds from 0.2 to 3600, such as 2"
            )
        if any(layout.runtime.workers == 0 for layout in self.layouts):
            raise InputError("--kill-worker-every needs worker processes; add --workers 2")
        if len(self.models) > 1 or len(self.layouts) > 1:
            raise InputError("--kill-worker-every takes one model and one setting")

    @property
    def is_sweep(self) -> bool:
        """Whether several settings are compared."""
        return len(self.layouts) > 1

    def scenarios_for(self, batch: int) -> tuple[Scenario, ...]:
        """The loads of a setting: those that were asked for, or its latency and its throughput."""
        if self.scenarios:
            return self.scenarios
        if self.kill_every_s is not None:
            return (Scenario(name="offline"),)
        if self.is_sweep and batch > 1:
            return Scenario(name="multi-stream", count=batch), Scenario(name="offline")
        return Scenario(name="single-stream"), Scenario(name="offline")


def layouts_of(
    *,
    batches: Sequence[int | None],
    workers: Sequence[int],
    threads: Sequence[int | None],
    streams: Sequence[int | None],
    common: RuntimeOptions | None = None,
) -> tuple[Layout, ...]:
    """Every combination, in the order of their options; the options that they have in common are `common`'s.

    Raises:
        InputError: Too many.
    """
    combined = list(itertools.product(batches, workers, threads, streams))
    if len(combined) > _MOST_SETTINGS:
        raise InputError(f"{len(combined)} settings would take for ever; give lists that make at most 64")
    return tuple(
        Layout(
            batch=batch,
            runtime=replace(
                common or RuntimeOptions(),
                workers=worker,
                threads=thread,
                streams=stream,
                slots=max(RuntimeOptions.slots, (stream or 1) + 2),
            ),
        )
        for batch, worker, thread, stream in combined
    )


def numbers_of(text: str, option: str) -> list[int]:
    """The numbers of `1,2,4`.

    Raises:
        InputError: It is no such list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise InputError(f"{option} {text!r} is no list of numbers; give such as 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def milliseconds_of(text: str, option: str) -> float:
    """The milliseconds of `20ms`, `0.5s` or `20`.

    Raises:
        InputError: It is no time.
    """
    number, factor = text.strip().lower(), 1.0
    for unit, unit_ms in _UNITS_MS.items():
        if number.endswith(unit):
            number, factor = number[: -len(unit)], unit_ms
            break
    try:
        value = float(number) * factor
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise InputError(f"{option} {text!r} is no time; give such as 20ms or 0.5s")
    return value


def share_of(text: str, option: str) -> float:
    """The share of `5%` or `0.05`.

    Raises:
        InputError: It is none.
    """
    number, factor = text.strip(), 1.0
    if number.endswith("%"):
        number, factor = number[:-1], 0.01
    try:
        value = float(number) * factor
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise InputError(f"{option} {text!r} is no share; give such as 5% or 0.05")
    return value


def scopes_of(text: str) -> tuple[str, ...]:
    """The scopes of `e2e,engine`, in their own order.

    Raises:
        InputError: Another name.
    """
    given = [part.strip() for part in text.split(",")]
    wrong = [part for part in given if part not in SCOPES]
    if wrong:
        raise InputError(f"no scope {wrong[0]!r}; give of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)
