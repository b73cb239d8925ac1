"""A bench as a whole: every model in every setting under every load, and what follows from it.

Enters: `BenchOptions`, image files. Leaves: a `Report`, and the raw windows. Prints nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trt_yolo.bench.advice import advice_for
from trt_yolo.bench.baseline import against_baseline, check_loads, read_baseline
from trt_yolo.bench.flow import SETTLING
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.measure import Measured, Say, Schedule, Seen, Yardstick, find_rate, measure
from trt_yolo.bench.options import BenchOptions
from trt_yolo.bench.peers.process import chosen_peers, open_peers
from trt_yolo.bench.recovery import WithKills, recovery_of
from trt_yolo.bench.report import Report, Setting
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.subject import Layout, Subject, open_subject
from trt_yolo.bench.summary import PEER, Collected, Sample, best_of, comparisons_of, run_of
from trt_yolo.bench.window import Contender, Named
from trt_yolo.errors import InputError, TrtYoloError
from trt_yolo.hardware.machine import Meanwhile, machine_record
from trt_yolo.hardware.power import PowerMeter
from trt_yolo.version import __version__

_PASSES = 2
_LONGEST_S = 600.0
_REST_S = 0.3  # after a peer: threads of OpenMP and PyTorch look for work for another 0.2 s

OnStart = Callable[[str], None]
_Opened = Callable[[str | None, Layout, Sequence[Path], str], Subject]


class Bench:
    """A bench under way.

    Args:
        options: What it is asked for.
        paths: Readable image files.
        data: Where they came from, for the report.
        command: The command line, for the report.
        weights: The first model's checkpoint, for peers that need it.
        say: Called after each window.
        on_start: Called with what is measured next.
        on_note: Called with what was left out, and why.
        opened: How a model is opened, in one setting.

    Attributes:
        collected: What was measured, by model, setting and scenario.
        failure: What ended it early, or kept it from being compared; None where all went well.

    Raises:
        InputError: The baseline cannot be read.
    """

    def __init__(
        self,
        options: BenchOptions,
        paths: Sequence[Path],
        *,
        data: str,
        command: str = "",
        weights: Path | None = None,
        say: Say | None = None,
        on_start: OnStart | None = None,
        on_note: OnStart | None = None,
        opened: _Opened = open_subject,
    ) -> None:
        self.options, self.paths, self.data, self.command = options, paths, data, command
        self._weights = weights
        self.collected: dict[tuple[str, Setting, str], Collected] = {}
        self.is_partial = False
        self.failure: TrtYoloError | None = None
        self.refused: list[str] = []
        self._baseline = read_baseline(options.baseline) if options.baseline is not None else None
        self._say: Say = say or (lambda _: None)
        self._on_start = on_start or (lambda _: None)
        self._opened = opened
        self._on_note = on_note or (lambda _: None)
        self._yardstick = Yardstick()
        self._machine: Mapping[str, Any] = {}

    def run(self) -> Report:
        """Measures everything; Ctrl-C ends it, or a `failure`, and the report says that it is partial.

        Raises:
            TrtYoloError: Before anything was measured: a model that cannot be loaded, a setting that it does not
                take (in a sweep: all of them).
            KeyboardInterrupt: Before anything was measured.
        """
        self._machine, meanwhile = machine_record(), Meanwhile()
        with PowerMeter() as meter:
            try:
                self._measure_all(meter)
            except KeyboardInterrupt:  # while something was loading
                self.is_partial = True
            except TrtYoloError as error:
                self.is_partial, self.failure = True, error
            if not any(_has_something(one) for one in self.collected.values()):
                raise self.failure or KeyboardInterrupt
            self._machine = {
                **self._machine,
                "meanwhile": meanwhile.to_dict(),
                "power": meter.sources,
                "notes": list(dict.fromkeys([*self._machine["notes"], *meter.notes])),
            }
            return self._report(meter)

    def windows(self) -> Iterator[tuple[Collected, str, Sample]]:
        """All that was seen, raw: run, contender, windows."""
        for one in self.collected.values():
            for name, sample in one.samples.items():
                yield one, name, sample

    def _measure_all(self, meter: PowerMeter) -> None:
        options = self.options
        passes = _PASSES if options.is_sweep else 1
        schedule = options.schedule
        if options.is_sweep:
            windows = max(1, schedule.windows // passes)
            schedule = dataclasses.replace(
                schedule,
                seconds=schedule.seconds / passes,
                windows=windows,
                min_count=-(-schedule.min_count // passes),
            )
        failed: list[Layout] = []
        for number in range(passes):
            for layout in options.layouts:
                if layout in failed:
                    continue
                try:
                    self._measure_layout(layout, schedule, meter)
                except InputError as error:
                    if not options.is_sweep or number:
                        raise
                    failed.append(layout)
                    self.refused.append(str(error))
                    if len(failed) == len(options.layouts):
                        raise
                if self.is_partial:
                    return

    def _measure_layout(self, layout: Layout, schedule: Schedule, meter: PowerMeter) -> None:
        with contextlib.ExitStack() as stack:
            subjects = []
            for model, name in zip(self.options.models, _names(self.options.models), strict=True):
                self._on_start(f"loading {name}")
                subjects.append(stack.enter_context(self._opened(model, layout, self.paths, name)))
            scenarios = self.options.scenarios_for(subjects[0].batch)
            if self._baseline is not None and not self.collected:
                check_loads(self._baseline, scenarios)
            for scenario in scenarios:
                for subject in subjects:
                    _check_scenario(subject, scenario)
            peers = self._peers(subjects[0], scenarios, stack)
            for scenario in scenarios:
                self._on_start(f"{subjects[0].setting.label}: {scenario.label}")
                beside = peers if scenario.name == "offline" else ()
                self._measure_scenario(subjects, scenario, schedule, meter, beside)
                if self.is_partial:
                    return

    def _peers(
        self, subject: Subject, scenarios: Sequence[Scenario], stack: contextlib.ExitStack
    ) -> Sequence[Contender]:
        """Those that run beside the first model under `offline`."""
        if not self.options.peers or not any(scenario.name == "offline" for scenario in scenarios):
            return ()
        names, missing = chosen_peers(self.options.peers, subject, self._weights)
        for line in missing:
            self._on_note(line)
        self._on_start(f"starting {', '.join(names)}")
        return stack.enter_context(open_peers(names, subject, self._weights))

    def _measure_scenario(
        self,
        subjects: Sequence[Subject],
        scenario: Scenario,
        schedule: Schedule,
        meter: PowerMeter,
        peers: Sequence[Contender],
    ) -> None:
        runs = [self._collected(subject, scenario) for subject in subjects]
        if scenario.name == "server" and scenario.rate is None:
            scenario = self._find_rate(subjects[0], runs[0], schedule)
        schedule = _long_enough(schedule, scenario)
        table: list[tuple[Contender, Collected, str]] = []
        for scope in self.options.scopes:
            for subject, run in zip(subjects, runs, strict=True):
                table.append((subject.contender(scope, scenario, seed=self.options.seed), run, scope))
        table += [(peer, runs[0], f"{PEER}{peer.name}") for peer in peers]
        killing = self._add_kills(subjects[0], scenario, runs[0], table)
        before = _restarts(subjects[0]) if killing is not None else 0
        measured = measure(
            [_named(one, run, name, len(subjects)) for one, run, name in table],
            schedule,
            say=self._say,
            around=self._around(meter, table),
            warmed_by=lambda one: self._warmer(one, subjects, table),
        )
        self.is_partial = measured.is_partial
        for (_, run, name), seen in zip(table, measured.seen, strict=True):
            self._note(run, name, seen, measured)
        for subject, run in zip(subjects, runs, strict=True):
            run.is_partial = run.is_partial or measured.is_partial
            run.parts = run.parts or subject.parts
        if killing is not None:
            self._note_recovery(runs[0], killing, _restarts(subjects[0]) - before)

    def _collected(self, subject: Subject, scenario: Scenario) -> Collected:
        key = (subject.name, subject.setting, scenario.label)
        if key not in self.collected:
            self.collected[key] = Collected(subject.facts, subject.setting, scenario)
        return self.collected[key]

    def _note(self, run: Collected, name: str, seen: Seen, measured: Measured) -> None:
        if not seen.windows:
            return
        sample = run.samples.setdefault(name, Sample())
        if not sample.windows:
            sample.began_s, sample.warm_up = measured.began_s, seen.warm_up
        sample.windows += seen.windows

    def _find_rate(self, subject: Subject, run: Collected, schedule: Schedule) -> Scenario:
        assert self.options.p99_ms is not None
        for found in find_rate(
            lambda scenario, seed: FilesToDetections(subject.model, subject.paths, scenario, seed=seed),
            limit_ms=self.options.p99_ms,
            schedule=schedule,
            seed=self.options.seed,
            say=self._say,
        ):
            run.found = found  # as far as it has got: Ctrl-C keeps it
        assert run.found is not None
        rate = run.found.rate or min(trial.rate for trial in run.found.trials)
        run.scenario = dataclasses.replace(run.scenario, rate=rate)
        return run.scenario

    def _add_kills(
        self,
        subject: Subject,
        scenario: Scenario,
        run: Collected,
        table: list[tuple[Contender, Collected, str]],
    ) -> WithKills | None:
        every_s = self.options.kill_every_s
        if every_s is None or scenario.is_open:
            return None
        quiet = FilesToDetections(subject.model, subject.paths, scenario, tolerates=True)
        counted = 1 - SETTLING if scenario.name == "offline" else 1.0
        killing = WithKills(quiet, subject.model, every_s=every_s, seed=self.options.seed, counted=counted)
        table.append((killing, run, killing.name))
        return killing

    def _note_recovery(self, run: Collected, killing: WithKills, restarts: int) -> None:
        assert self.options.kill_every_s is not None
        sample = run.samples.pop(killing.name, None)
        quiet = run.samples.get("e2e")
        if sample is not None and quiet is not None:
            run.recovery = recovery_of(
                killing, quiet.windows, sample.windows, every_s=self.options.kill_every_s, restarts=restarts
            )

    def _warmer(
        self,
        contender: Contender,
        subjects: Sequence[Subject],
        table: Sequence[tuple[Contender, Collected, str]],
    ) -> Contender:
        """What warms it up: what a queue or a killer would disturb is warmed up by plain throughput."""
        inner = contender.inner if isinstance(contender, Named) else contender
        if not inner.is_continuous and not isinstance(inner, WithKills):
            return contender
        run = next(run for one, run, _ in table if one is inner)
        subject = next(one for one in subjects if one.name == run.facts.name)
        return FilesToDetections(subject.model, subject.paths, Scenario(name="offline"))

    def _around(
        self, meter: PowerMeter, table: Sequence[tuple[Contender, Collected, str]]
    ) -> Callable[[Contender], contextlib.AbstractContextManager[object]]:
        """Before each window of a scope the yardstick is read; at both ends of a window, the meter."""

        @contextlib.contextmanager
        def around(contender: Contender) -> Iterator[None]:
            inner = contender.inner if isinstance(contender, Named) else contender
            run, name = next((run, name) for one, run, name in table if one is inner)
            if name == self.options.scopes[0]:
                self._yardstick.read()
            begun = meter.mark()
            yield
            run.samples.setdefault(name, Sample()).marks.append((begun, meter.mark()))
            if name.startswith(PEER):
                time.sleep(_REST_S)

        return around

    def _report(self, meter: PowerMeter) -> Report:
        runs = tuple(run_of(one, meter) for one in self.collected.values() if _has_something(one))
        comparisons = tuple(comparisons_of(runs, tolerance=self.options.tolerance))
        best = best_of(runs, self.options.p99_ms) if self.options.is_sweep else None
        report = Report(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            version=__version__,
            command=self.command,
            seed=self.options.seed,
            images=len(self.paths),
            data=self.data,
            machine=self._machine,
            yardstick=tuple(self._yardstick.rates),
            runs=runs,
            comparisons=comparisons,
            best=best,
            refused=tuple(self.refused),
            partial=self.is_partial,
        )
        if self._baseline is not None:
            try:
                beside = against_baseline(report, self._baseline, tolerance=self.options.tolerance)
                report = dataclasses.replace(report, baseline=beside)
            except InputError as error:
                self.failure = self.failure or error
        return dataclasses.replace(report, advice=tuple(advice_for(report)))


def _named(contender: Contender, run: Collected, name: str, models: int) -> Contender:
    return Named(contender, f"{run.facts.name} {name}" if models > 1 else name)


def _names(models: Sequence[str | None]) -> list[str]:
    """What results call the models: file names, whole paths where two are called the same."""
    short = [Path(model).name if model else "demo" for model in models]
    return [
        (model or "demo") if short.count(name) > 1 else name
        for model, name in zip(models, short, strict=True)
    ]


def _has_something(one: Collected) -> bool:
    return one.found is not None or any(sample.windows for sample in one.samples.values())


def _long_enough(schedule: Schedule, scenario: Scenario) -> Schedule:
    """With time for as many arrivals as are wanted; 10 minutes at most."""
    if not scenario.is_open:
        return schedule
    a_second = scenario.rate if scenario.rate is not None else scenario.count * scenario.fps
    wanted_s = min(schedule.min_count / a_second, _LONGEST_S)
    return dataclasses.replace(schedule, seconds=max(schedule.seconds, wanted_s))


def _check_scenario(subject: Subject, scenario: Scenario) -> None:
    if scenario.name == "cameras" and scenario.count > 1 and subject.batch > scenario.count:
        raise InputError(
            f"a batch of {subject.batch} and {scenario.count} cameras: no batch would ever be full; "
            f"give --batch {scenario.count} or less"
        )


def _restarts(subject: Subject) -> int:
    return sum(worker.restarts for worker in subject.model.stats().workers)
