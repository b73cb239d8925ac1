"""The tables of a bench's page, as HTML; everything that comes from the report is escaped here.

Enters: what `Report.to_dict` gives. Leaves: HTML. Knows no plots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from trt_yolo.bench.cells import (
    NONE,
    best_in,
    by_setting,
    is_open,
    main_figures,
    ms_text,
    percent_text,
    printable,
    rate_interval_text,
    rate_text,
    rated_and_timed,
    ratio_text,
    run_title,
)
from trt_yolo.bench.report import SCOPES
from trt_yolo.bench.statistics import Latency

_SHOWN = {"p50": "p50 ms", "p90": "p90", "p99": "p99", "p99_9": "p99.9"}
_UNSTEADY, _UNSUPPORTED = "~", "?"
_NOTES = {
    _UNSTEADY: "windows disagree by more than 5%",
    _UNSUPPORTED: "fewer than five queries took longer: little more than the longest one",
}
_GOOD, _BAD = frozenset({"FASTER", "SAME"}), frozenset({"SLOWER"})


class Markup(str):
    """HTML that was made here: it is not escaped again."""


class _Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: Text, or `Markup`; a single one is the heading of those below it.
        is_best: Whether it is the one to look at.
    """

    cells: Sequence[str]
    is_best: bool = False


def text(value: object) -> str:
    """A value, escaped unless it is `Markup`."""
    return value if isinstance(value, Markup) else escape(printable(value))


def _table(columns: Sequence[str], rows: Iterable[_Row], *, numbers: int) -> str:
    """A table, without the columns in which no row says anything.

    Args:
        columns: Their heads.
        rows: Their cells.
        numbers: How many columns, from the right, hold numbers.
    """
    rows = list(rows)
    full = [row.cells for row in rows if len(row.cells) > 1]
    kept = [at for at in range(len(columns)) if any(cells[at] for cells in full)]
    kinds = [' class="number"' if at >= len(columns) - numbers else "" for at in range(len(columns))]
    head = "".join(f"<th{kinds[at]}>{text(columns[at])}</th>" for at in kept)
    lines = []
    for row in rows:
        if len(row.cells) == 1:
            lines.append(
                f'<tr class="group"><td colspan="{len(kept)}"><div>{text(row.cells[0])}</div></td></tr>'
            )
            continue
        cells = "".join(f"<td{kinds[at]}>{text(row.cells[at])}</td>" for at in kept)
        lines.append(f'<tr class="{"best" if row.is_best else ""}">{cells}</tr>')
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """A table of names and values, without those that have none."""
    rows = "\n".join(
        f"<tr><td>{text(name)}</td><td>{text(value)}</td></tr>"
        for name, value in pairs
        if value not in ("", None)
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def badge(word: str, kind: str = "") -> Markup:
    """A word that stands out: `good`, `bad` or neither."""
    return Markup(f'<span class="badge {kind}">{text(word)}</span>')


def _scope_cell(name: str) -> Markup:
    """A scope with the dot of its colour; a peer with a grey one."""
    dot = f'<span class="dot {name if name in SCOPES else ""}"></span>'
    return Markup(f'<span class="scope">{dot}{text(name)}</span>')


# runs


def runs_table(report: Mapping[str, Any]) -> str:
    """What was measured, a row for each scope; of a sweep, a row for each setting."""
    if not report["runs"]:
        return ""
    if report.get("best") is not None:
        return _sweep_table(report)
    columns, rows = _run_columns(), [row for run in report["runs"] for row in _run_rows(run)]
    return _table(columns, rows, numbers=len(columns) - 1) + _notes(rows, report)


def _run_columns() -> list[str]:
    dropped = ["dropped", "errors", "lost"]
    return [
        "scope",
        "images/s",
        "95% interval",
        *_SHOWN.values(),
        "e2e / this",
        *dropped,
        "watts",
        "images/J",
    ]


def _run_rows(run: Mapping[str, Any]) -> Iterator[_Row]:
    mark = badge("PARTIAL", "bad") if run.get("partial") else ""
    yield _Row([Markup(f"{mark}{text(run_title(run))}")])
    for name, figures in run["scopes"].items():
        cut = badge("CUT", "bad") if figures["cut"] else ""
        yield _Row(
            [Markup(f"{_scope_cell(name)} {cut}"), *_figures(figures, run["ratios"].get(f"e2e/{name}"))]
        )
    for name, figures in run["peers"].items():
        yield _Row([_scope_cell(f"peer {name}"), *_figures(figures, run["ratios"].get(f"e2e/{name}"))])


def _figures(figures: Mapping[str, Any], ratio: Mapping[str, Any] | None) -> list[str]:
    return [
        *_throughput(figures),
        *_latency(figures),
        ratio_text(ratio) if ratio is not None else "",
        percent_text(figures["drop_rate"]) if figures["dropped"] else "",
        str(figures["errors"] or ""),
        str(figures["lost"] or ""),
        f"{figures['watts']:.1f}" if figures["watts"] else "",
        f"{figures['images_per_s_per_watt']:.3g}" if figures["images_per_s_per_watt"] else "",
    ]


def _throughput(figures: Mapping[str, Any]) -> list[str]:
    throughput = figures["throughput"]
    if throughput is None:
        return [NONE, NONE]
    mark = "" if throughput["steady"] or figures["latency_windows_ms"] else f" {_UNSTEADY}"
    return [rate_text(throughput["images_per_s"]), f"{rate_interval_text(throughput)}{mark}"]


def _latency(figures: Mapping[str, Any]) -> list[str]:
    """The percentiles, with a mark where too few queries lie beyond one."""
    if figures["latency_ms"] is None:
        return [""] * len(_SHOWN)
    latency = Latency(**figures["latency_ms"])
    return [
        ms_text(getattr(latency, name)) + ("" if latency.is_supported(name) else f" {_UNSUPPORTED}")
        for name in _SHOWN
    ]


def _notes(rows: Iterable[_Row], report: Mapping[str, Any]) -> str:
    """What the marks mean, those that are there."""
    cells = [cell for row in rows for cell in row.cells]
    lines = [
        f"{mark} {what}" for mark, what in _NOTES.items() if any(cell.endswith(f" {mark}") for cell in cells)
    ]
    if any(is_open(run) and run["ratios"] for run in report["runs"]):
        lines.append(
            "under server and cameras the load is given: e2e / engine is the share of the capacity in use"
        )
    return f'<p class="note">{text("; ".join(lines))}.</p>' if lines else ""


def _sweep_table(report: Mapping[str, Any]) -> str:
    columns = ["model", "batch", "workers", "threads", "streams", "images/s", "95% interval", "e2e / engine",
               "p50 ms", "p99", "best"]  # fmt: skip
    rows = [_setting_row(runs, report) for runs in by_setting(report["runs"])]
    if len({row.cells[0] for row in rows}) == 1:
        rows = [_Row(["", *row.cells[1:]], row.is_best) for row in rows]
    return _table(columns, rows, numbers=len(columns) - 1) + _notes(rows, report)


def _setting_row(runs: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> _Row:
    """A setting: its throughput and its latency, from whichever loads show them."""
    setting, best = runs[0]["setting"], best_in(runs[0], report)
    rated, timed = rated_and_timed(runs)
    rated_figures = main_figures(rated) if rated is not None else None
    timed_figures = main_figures(timed) if timed is not None else None
    latency = _latency(timed_figures) if timed_figures is not None else [""] * len(_SHOWN)
    ratio = rated["ratios"].get("e2e/engine") if rated is not None else None
    cells = [
        runs[0]["model"]["name"],
        str(setting["batch"]),
        str(setting["workers"]),
        str(setting["threads"]) if setting.get("streams") is None else "",
        str(setting["streams"]) if setting.get("streams") is not None else "",
        *(_throughput(rated_figures) if rated_figures is not None else (NONE, NONE)),
        ratio_text(ratio) if ratio is not None else "",
        latency[0],
        latency[2],
        ", ".join(best),
    ]
    return _Row(cells, is_best=bool(best))


def everything_table(report: Mapping[str, Any]) -> str:
    """Every run with every scope and peer: of a sweep what the short table leaves out, of all how it was measured."""
    columns = ["scope", "images/s", "95% interval", *_SHOWN.values(), "mean", "std", "min", "max", "images", "seconds",
               "windows", "spread", "warm-up s", "steady then"]  # fmt: skip
    rows = [row for run in report["runs"] for row in _whole_run(run)]
    return _table(columns, rows, numbers=len(columns) - 1)


def _whole_run(run: Mapping[str, Any]) -> Iterator[_Row]:
    yield _Row([run_title(run)])
    named = [*run["scopes"].items(), *((f"peer {name}", one) for name, one in run["peers"].items())]
    for name, figures in named:
        throughput, latency, warm_up = (
            figures["throughput"] or {},
            figures["latency_ms"] or {},
            figures["warm_up"],
        )
        yield _Row(
            [
                _scope_cell(name),
                *_throughput(figures),
                *_latency(figures),
                *(ms_text(latency[one]) if latency else "" for one in ("mean", "std", "min", "max")),
                str(figures["images"]),
                f"{figures['seconds']:.1f}",
                str(len(throughput.get("windows", ())) or ""),
                percent_text(throughput.get("spread")),
                f"{warm_up['seconds']:.1f}",
                "yes" if warm_up["is_steady"] else "no",
            ]
        )


# beside others


def compared_table(compared: Sequence[Mapping[str, Any]], *, one: str = "first", other: str = "other") -> str:
    """One thing beside another: how many times as fast, and what that says."""
    columns = [one, other, "load", "scope", "setting", "times as fast [95% interval]", f"{one} is"]
    rows = [
        _Row(
            [
                *(pair[name] for name in ("model", "other", "scenario")),
                _scope_cell(pair["scope"]),
                pair["setting"] if len({each["setting"] for each in compared}) > 1 else "",
                ratio_text(pair),
                _verdict(pair["verdict"]),
            ]
        )
        for pair in compared
    ]
    return _table(columns, rows, numbers=2)


def _verdict(word: str) -> Markup:
    """What a comparison says, so that what is worse is seen."""
    return badge(word, "good" if word in _GOOD else "bad" if word in _BAD else "quiet")


def trials_table(found: Mapping[str, Any]) -> str:
    """The rates that were tried, in that order."""
    rows = [
        _Row([rate_text(trial["rate"]), ms_text(trial["p99_ms"]), "yes" if trial["held"] else "no"])
        for trial in found["trials"]
    ]
    return _table(["arrivals, images/s", "p99 ms", "held"], rows, numbers=3)


def recovery_table(recovery: Mapping[str, Any]) -> str:
    """What it costs to lose workers."""
    cost = percent_text(recovery["cost"])
    if recovery["cost_low"] is not None and recovery["cost_high"] is not None:
        cost += f" [{percent_text(recovery['cost_low'])}, {percent_text(recovery['cost_high'])}]"
    ready_ms = recovery["ready_ms"]
    return facts(
        [
            ("a worker killed every", f"{recovery['every_s']:g} s"),
            ("kills, restarts", f"{recovery['kills']}, {recovery['restarts']}"),
            ("another is ready after", f"{ms_text(ready_ms)} ms" if ready_ms is not None else NONE),
            ("throughput lost [95% interval]", cost),
            ("images sent", f"{recovery['offered']:,}"),
            ("errors", recovery["errors"]),
            (
                "lost",
                Markup(f'<span class="{"bad" if recovery["lost"] else "good"}">{recovery["lost"]}</span>'),
            ),
        ]
    )
