"""An earlier result beside this one: what has become slower, as far as one can tell.

Two runs at different times differ by more than what was changed: the machine itself is faster or slower. So each
ratio is looked at twice, as it is and by what the yardstick of each run says of the machine; its interval holds
both. Enters: a report, a file that `trt-yolo bench --json` wrote. Leaves: `AgainstBaseline`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.report import SCHEMA, TOOL, AgainstBaseline, Compared, Report, Run
from trt_yolo.bench.statistics import Ratio, unpaired_ratio
from trt_yolo.errors import InputError

_SETTING = ("batch", "workers", "threads", "decode_threads", "streams", "devices")
_MACHINE = ("cpu", "cores", "governor", "python", "driver", "packages")


@dataclass(frozen=True, kw_only=True)
class _Baseline:
    """An earlier result.

    Attributes:
        path: Its file.
        values: What `Report.to_dict` gave.
    """

    path: Path
    values: Mapping[str, Any]


def read_baseline(path: Path) -> _Baseline:
    """The result in a file: its last line that is JSON, so that tables before it do no harm.

    Raises:
        InputError: No such file, no result in it, or one of another schema.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(
            f"cannot read the baseline {path}: {reason}; make one with trt-yolo bench ... --json > {path.name}"
        ) from error
    values = _last_object(lines)
    if values is None or values.get("tool") != TOOL:
        raise InputError(f"{path} holds no result of trt-yolo bench; make one with --json > {path.name}")
    if values.get("schema") != SCHEMA:
        raise InputError(
            f"{path} has schema {values.get('schema')}, this trt-yolo reads {SCHEMA}; measure the baseline again"
        )
    if not isinstance(values.get("runs"), list) or not values["runs"]:
        raise InputError(f"{path} holds no run; measure the baseline again")
    return _Baseline(path=path, values=values)


def _last_object(lines: Sequence[str]) -> dict[str, Any] | None:
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                return None
            return found if isinstance(found, dict) else None
    return None


def check_loads(baseline: _Baseline, scenarios: Sequence[Scenario]) -> None:
    """Raises InputError where none of the loads is in the baseline: before anything is measured."""
    try:
        had = {str(one["scenario"]["label"]) for one in baseline.values["runs"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{baseline.path} is damaged ({error!r}); measure the baseline again") from error
    is_searched = any(one.name == "server" and one.rate is None for one in scenarios)
    if not is_searched and had.isdisjoint(one.label for one in scenarios):
        raise _nothing(baseline, had)


def _nothing(baseline: _Baseline, had: Collection[str]) -> InputError:
    return InputError(
        f"{baseline.path} has nothing to compare with: it was measured under {', '.join(sorted(had))}; "
        "use the same scenario"
    )


def against_baseline(report: Report, baseline: _Baseline, *, tolerance: float) -> AgainstBaseline:
    """Every run beside its counterpart.

    Raises:
        InputError: The baseline has no run under the same load, or is damaged.
    """
    try:
        pairs = list(_pairs(report, baseline.values))
        comparisons = [
            one for run, then in pairs for one in _compared(run, then, report, baseline, tolerance)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{baseline.path} is damaged ({error!r}); measure the baseline again") from error
    if not comparisons:
        raise _nothing(baseline, {str(one["scenario"]["label"]) for one in baseline.values["runs"]})
    return AgainstBaseline(
        path=str(baseline.path),
        created=str(baseline.values.get("created", "")),
        tolerance=tolerance,
        comparisons=tuple(comparisons),
        notes=tuple(_notes(report, pairs, baseline.values)),
    )


def _pairs(report: Report, then: Mapping[str, Any]) -> Iterator[tuple[Run, Mapping[str, Any]]]:
    """Runs under the same load: of the same model and setting where there are such, else of the only model."""
    names = {run.model.name for run in report.runs}
    then_names = {one["model"]["name"] for one in then["runs"]}
    is_renamed = len(names) == len(then_names) == 1
    for run in report.runs:
        same_load = [one for one in then["runs"] if one["scenario"]["label"] == run.scenario["label"]]
        same_model = [one for one in same_load if is_renamed or one["model"]["name"] == run.model.name]
        if same_model:
            yield run, max(same_model, key=lambda one: _likeness(run, one))


def _likeness(run: Run, then: Mapping[str, Any]) -> int:
    return sum(_plain(getattr(run.setting, name)) == then["setting"].get(name) for name in _SETTING)


def _compared(
    run: Run, then: Mapping[str, Any], report: Report, baseline: _Baseline, tolerance: float
) -> Iterator[Compared]:
    machine = _machine_ratio(report.yardstick, baseline.values.get("yardstick") or [])
    for scope, figures in run.scopes.items():
        earlier = then["scopes"].get(scope)
        if earlier is None:
            continue
        raw = unpaired_ratio(figures.speeds, _speeds(earlier))
        if raw is None:
            continue
        ratio = _both(raw, machine)
        yield Compared(
            model=run.model.name,
            other=str(then["model"]["name"]),
            scenario=str(run.scenario["label"]),
            scope=scope,
            setting=run.setting.label,
            ratio=ratio,
            verdict=ratio.verdict(tolerance),
        )


def _speeds(figures: Mapping[str, Any]) -> list[float]:
    latencies_ms = figures.get("latency_windows_ms") or []
    if latencies_ms:
        return [1e3 / float(one) for one in latencies_ms]
    throughput = figures.get("throughput") or {}
    return [float(one) for one in throughput.get("windows", [])]


def _machine_ratio(now: Sequence[float], then: Sequence[float]) -> float:
    """How many times as fast the machine itself is now; 1 where nobody knows."""
    if not now or not then:
        return 1.0
    return float(np.median(now) / np.median(then))


def _both(raw: Ratio, machine: float) -> Ratio:
    """The ratio with an interval that holds what both ways of looking at it say."""
    ends = (raw.low, raw.high, raw.low / machine, raw.high / machine)
    return Ratio(ratio=raw.ratio / machine**0.5, low=min(ends), high=max(ends), windows=raw.windows)


def _notes(
    report: Report, pairs: Sequence[tuple[Run, Mapping[str, Any]]], then: Mapping[str, Any]
) -> Iterator[str]:
    """What else differs, in words."""
    for name in _MACHINE:
        before, now = then["machine"].get(name), _plain(report.machine.get(name))
        if before != now:
            yield f"{name} was {_short(before)}, is {_short(now)}"
    before, now = (
        [str(gpu.get("name")) for gpu in machine.get("gpus") or []]
        for machine in (then["machine"], report.machine)
    )
    if before != now:
        yield f"the GPUs were {', '.join(before) or 'none'}, are {', '.join(now) or 'none'}"
    speed = _machine_ratio(report.yardstick, then.get("yardstick") or [])
    if abs(speed - 1) > 0.03:
        yield f"the machine itself is {speed:.2f} times as fast as then, by a fixed piece of work"
    for run, earlier in pairs:
        for name in _SETTING:
            before, now = earlier["setting"].get(name), _plain(getattr(run.setting, name))
            if before != now:
                yield f"{run.scenario['label']}: {name} was {before}, is {now}"
        if earlier["model"].get("sha256") != run.model.sha256:
            yield f"{run.model.name} is another file than {earlier['model']['name']} was then"
    if then.get("partial"):
        yield "the baseline was interrupted"


def _plain(value: Any) -> Any:
    """As it looks after JSON."""
    return json.loads(json.dumps(value, default=str))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
