"""A bench's result as rows: tables for a person, one flat table for a spreadsheet, raw samples.

Enters: a report, windows. Leaves: titles, columns and rows of text; CSV files. Knows no terminal.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trt_yolo.artifacts.files import write_files
from trt_yolo.bench.figures import Figures, Stages
from trt_yolo.bench.report import Compared, Report, Run
from trt_yolo.bench.statistics import PERCENTILES, Ratio
from trt_yolo.bench.summary import Collected, Sample
from trt_yolo.bench.window import Window

_STAGES = tuple(field.name for field in dataclasses.fields(Stages))
_SHOWN = ("p50", "p90", "p99", "p99_9")


class _Table(NamedTuple):
    """A table for a person.

    Attributes:
        title: What stands above it.
        columns: Their heads.
        rows: Text.
        numbers: How many columns, from the right, hold numbers.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int


def tables_of(report: Report) -> Iterator[_Table]:
    """What a person wants to see, in that order."""
    if report.best is not None:
        yield _sweep(report)
    else:
        yield from map(_figures, report.runs)
    shown = report.runs if report.best is None else [report.runs[report.best.throughput]]
    stages = [row for run in shown for row in _stage_rows(run, report)]
    if stages:
        yield _stages(stages)
    if report.comparisons:
        yield _comparison("models in turn: how many times as fast the first one is", report.comparisons)
    if report.baseline is not None:
        title = f"beside {report.baseline.path} of {report.baseline.created}: times as fast as then"
        yield _comparison(title, report.baseline.comparisons)
    yield from (_trials(run) for run in report.runs if run.find_rate is not None)


def _title_of(run: Run) -> str:
    """Which load, which model, and how it was laid out."""
    model = run.model
    accuracy = f", mAP50-95 {model.map50_95:.4f}" if model.map50_95 is not None else ""
    height, width = model.imgsz
    partial = "PARTIAL " if run.partial else ""
    return (
        f"{partial}{run.scenario['label']}: {model.name}, {model.precision}, {height}x{width}{accuracy}, "
        f"{run.setting.label}"
    )


def _figures(run: Run) -> _Table:
    names = [*run.scopes.items(), *((f"peer {name}", one) for name, one in run.peers.items())]
    has_latency = any(figures.latency_ms is not None for _, figures in names)
    rows = [
        [name, *_throughput(figures), *(_latency(figures) if has_latency else ()), _share(run, name)]
        for name, figures in names
    ]
    share = "load / capacity" if run.scenario["name"] in ("server", "cameras") else "e2e / this"
    latency = ["p50 ms", "p90", "p99", "p99.9"] if has_latency else []
    columns = ["scope", "images/s", "95%", *latency, share]
    return _Table(_title_of(run), columns, rows, len(columns) - 1)


def _throughput(figures: Figures) -> list[str]:
    found = figures.throughput
    if found is None:
        return ["-", "-"]
    mark = "" if found.is_steady or figures.latency_windows_ms else " ~"
    half = 50 * (found.high - found.low) / found.images_per_s
    return [f"{found.images_per_s:.1f}", f"±{half:.1f}%{mark}" if len(found.windows) > 1 else "-"]


def _latency(figures: Figures) -> list[str]:
    latency = figures.latency_ms
    if latency is None:
        return [""] * len(_SHOWN)
    return [f"{getattr(latency, name):.2f}" + ("" if latency.is_supported(name) else " ?") for name in _SHOWN]


def _share(run: Run, name: str) -> str:
    found = run.ratios.get(f"e2e/{name.removeprefix('peer ')}")
    return _ratio_text(found) if found is not None else ""


def _ratio_text(ratio: Ratio) -> str:
    """A ratio with its interval, where it has one; no result where it cannot be."""
    has_interval = ratio.low > 0 and ratio.high < 1e6
    text = f"{ratio.ratio:.2f}" + (f" [{ratio.low:.2f}, {ratio.high:.2f}]" if has_interval else "")
    return f"measurement error ({text})" if ratio.is_error else text


def notes_of(report: Report) -> Iterator[str]:
    """What the marks in the tables mean, if there are any."""
    figures = [one for run in report.runs for one in run.scopes.values()]
    if any(one.throughput and not one.throughput.is_steady and not one.latency_windows_ms for one in figures):
        yield "~ windows disagree by more than 5%"
    if any(one.latency_ms and not one.latency_ms.is_supported(name) for one in figures for name in _SHOWN):
        yield "? fewer than five queries took longer: little more than the longest one; measure longer"
    yield from (f"refused: {line}" for line in dict.fromkeys(report.refused))
    if report.baseline is not None:
        yield from (f"besides: {line}" for line in report.baseline.notes)


def _stages(rows: Sequence[Sequence[str]]) -> _Table:
    """Without the stages that take no time anywhere, as copies on a CPU."""
    heads = ["load", "setting", *(name.replace("_", " ") for name in _STAGES)]
    kept = [at for at in range(len(heads)) if at < 2 or any(row[at] != "0.00" for row in rows)]
    return _Table(
        "where an image's time goes in e2e, mean, ms",
        [heads[at] for at in kept],
        [[row[at] for at in kept] for row in rows],
        len(kept) - 2,
    )


def _stage_rows(run: Run, report: Report) -> Iterator[list[str]]:
    figures = run.scopes.get("e2e")
    if figures is None or figures.stages_ms is None:
        return
    setting = run.setting.label if report.best is not None else run.model.name
    yield [
        str(run.scenario["label"]),
        setting,
        *(f"{getattr(figures.stages_ms, name):.2f}" for name in _STAGES),
    ]


def _sweep(report: Report) -> _Table:
    """A row for each setting: its throughput, and the latency of its queries."""
    best = report.best
    assert best is not None
    marks = {report.runs[best.throughput].setting: ["most images/s"]}
    if best.latency is not None:
        marks.setdefault(report.runs[best.latency].setting, []).append(f"most within {best.limit_ms:g} ms")
    rows = []
    for runs in _by_setting(report.runs):
        setting = runs[0].setting
        rows.append(
            [
                str(setting.batch),
                str(setting.workers),
                str(setting.threads if setting.streams is None else setting.streams),
                *_of_setting(runs),
                ", ".join(marks.get(setting, [])),
            ]
        )
    first = report.runs[0]
    kind = "threads" if first.setting.streams is None else "streams"
    columns = ["batch", "workers", kind, "images/s", "95%", "e2e / engine", "p50 ms", "p99", "best"]
    loads = ", ".join(dict.fromkeys(str(run.scenario["name"]) for run in report.runs))
    return _Table(f"sweep of {first.model.name}, {loads}: every setting twice, in turn", columns, rows, 9)


def _of_setting(runs: Sequence[Run]) -> list[str]:
    """Throughput and its share of the engine's, and latency, from whichever loads show them."""
    main = [(run, next(iter(run.scopes.values()))) for run in runs if run.scopes]
    rated = next(((run, one) for run, one in main if one.latency_ms is None), main[0] if main else None)
    timed = next((one for _, one in main if one.latency_ms is not None), None)
    if rated is None:
        return ["-"] * 5
    latency = _latency(timed) if timed is not None else [""] * len(_SHOWN)
    return [*_throughput(rated[1]), _share(rated[0], "engine"), latency[0], latency[2]]


def _by_setting(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[tuple[str, object], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.model.name, run.setting), []).append(run)
    return list(groups.values())


def _comparison(title: str, compared: Sequence[Compared]) -> _Table:
    rows = [
        [one.model, one.other, one.scenario, one.scope, _ratio_text(one.ratio), one.verdict]
        for one in compared
    ]
    return _Table(title, ["first", "other", "load", "scope", "ratio [95% interval]", "it is"], rows, 2)


def _trials(run: Run) -> _Table:
    found = run.find_rate
    assert found is not None
    rows = [
        [
            f"{trial.rate:.4g}",
            f"{trial.p99_ms:.2f}" if trial.p99_ms is not None else "-",
            "yes" if trial.held else "no",
        ]
        for trial in found.trials
    ]
    return _Table(f"rates tried, p99 at most {found.limit_ms:g} ms", ["images/s", "p99 ms", "held"], rows, 3)


def write_csv(path: Path, report: Report) -> None:
    """One row for each scope of each run, and each peer.

    Raises:
        OSError: The file cannot be written.
    """
    rows = [row for run in report.runs for row in _flat(run)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_files({path: text.getvalue().encode()})


def _flat(run: Run) -> Iterator[dict[str, object]]:
    setting = run.setting
    for name, figures in [*run.scopes.items(), *((f"peer:{name}", one) for name, one in run.peers.items())]:
        throughput, latency, stages = figures.throughput, figures.latency_ms, figures.stages_ms
        yield {
            "model": run.model.name,
            "precision": run.model.precision,
            "scenario": run.scenario["label"],
            "scope": name,
            "batch": setting.batch,
            "workers": setting.workers,
            "threads": setting.threads,
            "streams": setting.streams,
            "images": figures.images,
            "images_per_s": figures.images_per_s,
            "images_per_s_low": throughput.low if throughput else None,
            "images_per_s_high": throughput.high if throughput else None,
            "spread": throughput.spread if throughput else None,
            **{
                f"{one}_ms": getattr(latency, one) if latency else None
                for one in ("mean", "std", "min", *PERCENTILES, "max")
            },
            **{f"{one}_ms": getattr(stages, one) if stages else None for one in _STAGES},
            "offered": figures.offered,
            "drop_rate": figures.drop_rate,
            "errors": figures.errors,
            "lost": figures.lost,
            "watts": figures.watts,
            "partial": run.partial,
        }


def write_samples(path: Path, seen: Iterable[tuple[Collected, str, Sample]]) -> None:
    """Every raw sample as a row of CSV: each query, or where a load has none, each image's answer.

    Times are seconds after the run's first window began; `due` is what latencies count from.

    Raises:
        OSError: The file cannot be written.
    """
    columns = ["model", "setting", "scenario", "scope", "window", "due_s", "begun_s", "ended_s", "images"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*columns, "latency_ms"])
    for run, name, sample in seen:
        about = [run.facts.name, run.setting.label, run.scenario.label, name]
        for number, window in enumerate(sample.windows):
            for times in _times(window, sample.began_s):
                writer.writerow([*about, number, *times])
    write_files({path: text.getvalue().encode()})


def _times(window: Window, began_s: float) -> Iterator[list[object]]:
    for query in window.queries:
        moments = [f"{moment - began_s:.6f}" for moment in query[:3]]
        yield [*moments, query.images, f"{query.latency_ms:.4f}"]
    if not window.queries:
        for end_s in window.ends_s:
            yield ["", "", f"{end_s - began_s:.6f}", 1, ""]
        if not window.ends_s:
            yield [f"{window.started_s - began_s:.6f}", "", f"{window.started_s - began_s + window.seconds:.6f}",
                   window.images, ""]  # fmt: skip
