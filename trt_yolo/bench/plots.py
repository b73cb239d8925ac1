"""The plots of a bench's page: latencies, throughput over time, stages, rates; what they show of one run.

Enters: what `Report.to_dict` gives. Leaves: figures for plotly.js. Needs plotly. Knows no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from trt_yolo.bench.cells import (
    interval_of,
    is_open,
    labels_of,
    load_of,
    ms_text,
    rate_text,
    run_title,
    shown_runs,
)
from trt_yolo.bench.plot_parts import (
    NAMED,
    QUIET,
    SCOPE_COLOURS,
    Plot,
    axis,
    dashes,
    drawn,
    label,
    scale,
    see_through,
    straight,
)
from trt_yolo.bench.plots_of_settings import beside_engine, beside_peers, sweep
from trt_yolo.bench.statistics import PERCENTILES, Latency

_SHOWN = ("p50", "p90", "p99", "p99_9")
_TICKS = (0, 50, 75, 90, 95, 99, 99.9)
_MOST_WATERFALLS = 8

_LATENCY = "Latency"
_OVER_TIME = "Over time"
_STAGES = "Where an image's time goes"
_RATES = "Rates tried"


def plots_of(report: Mapping[str, Any]) -> Iterator[Plot]:
    """What can be drawn of a report, in the order in which it is looked at; nothing of what was not measured."""
    yield from _latencies(report)
    yield from _over_time(report)
    yield from _waterfalls(report)
    yield from sweep(report)
    yield from beside_engine(report)
    yield from beside_peers(report)
    yield from _rates(report)


def _by_load(report: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Runs under the same kind of load together, with its name: only those share an axis."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in shown_runs(report):
        groups.setdefault(run["scenario"]["name"], []).append(run)
    for name, runs in groups.items():
        loads = {load_of(run) for run in runs}
        yield loads.pop() if len(loads) == 1 else name, runs


class _Curve(NamedTuple):
    """A scope of a run, and how it is drawn.

    Attributes:
        scope: Which; it has a colour.
        which: What tells its run from the others; it has a dash.
        dash: That.
        figures: What was measured.
    """

    scope: str
    which: str
    dash: str
    figures: Mapping[str, Any]

    @property
    def line(self) -> dict[str, Any]:
        """How its line looks."""
        return {"color": _colour(self.scope), "dash": self.dash, "width": 2}

    @property
    def shared(self) -> dict[str, Any]:
        """What all of its traces have: the legend shows and hides a scope of all runs together."""
        name = f"{self.scope}, {self.which}" if self.which else self.scope
        return {"legendgroup": self.scope, "showlegend": False, "meta": label(name)}


def _curves(runs: Sequence[Mapping[str, Any]]) -> list[_Curve]:
    """Every scope of every run."""
    labels = labels_of(runs)
    dash_of = dashes(labels)
    return [
        _Curve(scope, which, dash_of[which], figures)
        for run, which in zip(runs, labels, strict=True)
        for scope, figures in run["scopes"].items()
    ]


def _legend(curves: Sequence[_Curve]) -> Iterator[Any]:
    """Which colour a scope has, and which dash a run: fewer lines than each of both together."""
    for scope in dict.fromkeys(curve.scope for curve in curves):
        yield _key(scope, colour=_colour(scope), dash="solid")
    for which, dash in dict.fromkeys((curve.which, curve.dash) for curve in curves if curve.which):
        yield _key(which, colour=QUIET, dash=dash)


def _key(name: str, *, colour: str, dash: str) -> Any:
    line = {"color": colour, "dash": dash, "width": 2}
    return go.Scatter(x=[None], y=[None], name=label(name), legendgroup=name, mode="lines", line=line)


def _colour(scope: str) -> str:
    return SCOPE_COLOURS.get(scope, QUIET)


# latency


def _latencies(report: Mapping[str, Any]) -> Iterator[Plot]:
    for load, runs in _by_load(report):
        curves = [one for one in _curves(runs) if one.figures["latency_ms"] and one.figures["quantiles_ms"]]
        if not curves:
            continue
        traces = [trace for curve in curves for trace in _percentiles(curve)]
        values = [value for trace in traces for value in trace.y]
        traces += _legend(curves)
        limit_ms = _limit_ms(runs, report)
        if limit_ms is not None:
            values.append(limit_ms)
            ends = (0.0, _tail(PERCENTILES["p99_9"]))
            traces.append(straight(x=ends, y=(limit_ms, limit_ms), name=f"limit of p99, {limit_ms:g} ms"))
        x = axis(
            "percentile", tickvals=[_tail(one) for one in _TICKS], ticktext=[f"{one:g}" for one in _TICKS]
        )
        figure = drawn(traces, height=380, x=x, y=axis("latency, ms", **scale(values)))
        yield Plot(_LATENCY, load, figure)


def _tail(percent: float) -> float:
    """Where a percentile lies on the axis: each step of 1 has a tenth of the queries beyond it."""
    return -math.log10(1 - percent / 100)


def _percentiles(curve: _Curve) -> Iterator[Any]:
    """A scope's percentiles as a line, and marks at those that tables show, hollow where too few lie beyond."""
    latency = Latency(**curve.figures["latency_ms"])
    percents = [*map(float, range(100)), PERCENTILES["p99_9"]]
    yield go.Scatter(
        x=[_tail(one) for one in percents],
        y=[*curve.figures["quantiles_ms"][:100], latency.p99_9],
        mode="lines",
        line=curve.line,
        customdata=percents,
        hovertemplate="p%{customdata:g}: %{y:.2f} ms<extra>%{meta}</extra>",
        **curve.shared,
    )
    yield go.Scatter(
        x=[_tail(PERCENTILES[one]) for one in _SHOWN],
        y=[getattr(latency, one) for one in _SHOWN],
        mode="markers",
        marker={
            "color": _colour(curve.scope),
            "size": 8,
            "symbol": ["circle" if latency.is_supported(one) else "circle-open" for one in _SHOWN],
        },
        hoverinfo="skip",
        **curve.shared,
    )


def _limit_ms(runs: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> float | None:
    """What the 99th percentile was asked to be in these runs."""
    found = next((run["find_rate"] for run in runs if run.get("find_rate")), None) or report.get("best") or {}
    limit_ms: float | None = found.get("limit_ms")
    return limit_ms


# over time


def _over_time(report: Mapping[str, Any]) -> Iterator[Plot]:
    for load, runs in _by_load(report):
        rated = [(curve, list(_rates_over_time(curve))) for curve in _curves(runs)]
        yield from _timeline(f"{load}: throughput", "images/s", rated)
        if is_open(runs[0]):
            timed = [(curve, list(_latencies_over_time(curve))) for curve in _curves(runs)]
            yield from _timeline(f"{load}: median latency", "p50, ms", timed)


def _timeline(title: str, unit: str, by_curve: Sequence[tuple[_Curve, list[Any]]]) -> Iterator[Plot]:
    traces = [trace for _, its_traces in by_curve for trace in its_traces]
    if not traces:
        return
    values = [value for trace in traces for value in trace.y]
    low, high = min(values), max(values)
    room = max(0.15 * (high - low), 0.05 * high)  # less than 5% is no drift, and must not look like one
    y = axis(unit, range=[max(0.0, low - room), high + room])
    traces += _legend([curve for curve, its_traces in by_curve if its_traces])
    yield Plot(_OVER_TIME, title, drawn(traces, height=320, x=axis("seconds since the first window"), y=y))


def _rates_over_time(curve: _Curve) -> Iterator[Any]:
    """Each window's rate, and behind them the interval of their mean."""
    throughput, starts_s = curve.figures["throughput"], curve.figures["window_starts_s"]
    if throughput is None or len(throughput["windows"]) < 2 or len(starts_s) != len(throughput["windows"]):
        return
    interval = interval_of(throughput)
    if interval is not None:
        ends_s = (starts_s[0], starts_s[-1])
        yield go.Scatter(
            x=[ends_s[0], ends_s[1], ends_s[1], ends_s[0]],
            y=[interval[0], interval[0], interval[1], interval[1]],
            fill="toself",
            fillcolor=see_through(_colour(curve.scope), 0.18),
            mode="none",
            hoverinfo="skip",
            **curve.shared,
        )
    yield _windows(curve, starts_s, throughput["windows"], unit="images/s")


def _latencies_over_time(curve: _Curve) -> Iterator[Any]:
    """The median latency of equal pieces of the queries, spread evenly over the time."""
    values, starts_s = curve.figures["latency_windows_ms"], curve.figures["window_starts_s"]
    if len(values) > 1 and starts_s:
        step_s = curve.figures["seconds"] / len(values)
        at_s = [starts_s[0] + number * step_s for number in range(len(values))]
        yield _windows(curve, at_s, values, unit="ms")


def _windows(curve: _Curve, at_s: Sequence[float], values: Sequence[float], *, unit: str) -> Any:
    return go.Scatter(
        x=at_s,
        y=values,
        mode="lines+markers",
        line=curve.line | {"width": 1.5},
        marker={"size": 6},
        hovertemplate=f"%{{x:.1f}} s: %{{y:.2f}} {unit}<extra>%{{meta}}</extra>",
        **curve.shared,
    )


# stages


def _waterfalls(report: Mapping[str, Any]) -> Iterator[Plot]:
    runs = [run for run in shown_runs(report) if (run["scopes"].get("e2e") or {}).get("stages_ms")]
    titles = labels_of(runs) if len(runs) > 1 else [load_of(run) for run in runs]
    for run, title in list(zip(runs, titles, strict=True))[:_MOST_WATERFALLS]:
        stages_ms = {name: value for name, value in run["scopes"]["e2e"]["stages_ms"].items() if value}
        if stages_ms:
            yield Plot(_STAGES, title or run_title(run), _waterfall(stages_ms))


def _waterfall(stages_ms: Mapping[str, float]) -> dict[str, Any]:
    """One below the other, each where the one before it ends; copies on a CPU take no time and no row."""
    total_ms = sum(stages_ms.values())
    bars = go.Waterfall(
        orientation="h",
        y=[*(name.replace("_", " ") for name in stages_ms), "all"],
        x=[*stages_ms.values(), total_ms],
        measure=[*("relative" for _ in stages_ms), "total"],
        text=[*(f"{ms_text(value)} ms" for value in stages_ms.values()), f"{ms_text(total_ms)} ms"],
        textposition="outside",
        cliponaxis=False,
        increasing={"marker": {"color": _colour("e2e")}},
        totals={"marker": {"color": QUIET}},
        connector={"line": {"color": "rgba(128,128,128,0.6)", "width": 1}},
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    y = axis("", autorange="reversed", showgrid=False)
    return drawn([bars], height=90 + 30 * (len(stages_ms) + 1), x=axis("ms", range=[0, 1.28 * total_ms]), y=y)


# rates


def _rates(report: Mapping[str, Any]) -> Iterator[Plot]:
    for run in report["runs"]:
        found = run.get("find_rate")
        if found and any(trial["p99_ms"] is not None for trial in found["trials"]):
            yield Plot(_RATES, run_title(run) if len(report["runs"]) > 1 else "", _trials(found))


def _trials(found: Mapping[str, Any]) -> dict[str, Any]:
    """The 99th percentile at each rate that was tried, and what was found between them."""
    tried = [trial for trial in found["trials"] if trial["p99_ms"] is not None]
    rates, values = [trial["rate"] for trial in tried], [trial["p99_ms"] for trial in tried]
    traces = [
        _tried([trial for trial in tried if trial["held"] == held], name=name, mark=mark)
        for held, name, mark in ((True, "held", "circle"), (False, "not held", "x"))
        if any(trial["held"] == held for trial in tried)
    ]
    limit_ms = found["limit_ms"]
    traces.append(straight(x=(0, max(rates)), y=(limit_ms, limit_ms), name=f"limit of p99, {limit_ms:g} ms"))
    if found["rate"] is not None:
        name = f"found: {rate_text(found['rate'])} images/s"
        low = 0 if "rangemode" in scale([*values, limit_ms]) else min(*values, limit_ms)
        traces.append(straight(x=(found["rate"],) * 2, y=(low, max(*values, limit_ms)), name=name))
        traces[-1].line.dash = "dot"
    y = axis("p99, ms", **scale([*values, limit_ms]))
    return drawn(traces, height=360, x=axis("arrivals, images/s", rangemode="tozero"), y=y)


def _tried(trials: Sequence[Mapping[str, Any]], *, name: str, mark: str) -> Any:
    return go.Scatter(
        x=[trial["rate"] for trial in trials],
        y=[trial["p99_ms"] for trial in trials],
        name=name,
        mode="markers",
        marker={"color": _colour("e2e"), "size": 10, "symbol": mark},
        hovertemplate="%{x:.1f} images/s: p99 %{y:.2f} ms" + NAMED,
    )
