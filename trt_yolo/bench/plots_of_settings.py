"""The plots of a bench's page that set runs side by side: sweeps, and everything beside the bare engine and peers.

Enters: what `Report.to_dict` gives. Leaves: figures for plotly.js. Needs plotly. Knows no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from trt_yolo.bench.cells import (
    best_in,
    by_setting,
    counted,
    interval_of,
    is_open,
    labels_of,
    load_of,
    main_figures,
    model_of,
    rated_and_timed,
)
from trt_yolo.bench.plot_parts import (
    CLEAR,
    NAMED,
    SCOPE_COLOURS,
    Plot,
    axis,
    drawn,
    ends,
    label,
    other_style,
    scale,
    straight,
)

_SWEEP = "Settings"
_ENGINE = "Beside the bare engine"
_PEERS = "Beside peers"

_VARIED = ("model", "batch", "workers", "streams", "threads")
_FEW = 12  # points or rows that all have room for their names
_ROW, _LOW_ROW = 64, 46  # pixels
_SMALL = 0.5
_TIMES = [factor * 10**power for power in range(-3, 5) for factor in (1, 2, 3, 5)]
_RINGS = (("circle-open", 17), ("square-open", 23))


# sweep


class _Point(NamedTuple):
    """A setting of a sweep.

    Attributes:
        at: Its model and its numbers, by their names.
        images_per_s: Its throughput.
        interval: Its 95% interval.
        p99_ms: Of its queries.
        marks: What it is best in.
    """

    at: Mapping[str, Any]
    images_per_s: float
    interval: tuple[float, float] | None
    p99_ms: float | None
    marks: Collection[str]


def sweep(report: Mapping[str, Any]) -> Iterator[Plot]:
    """Throughput by setting, a line for each combination of what else was varied; p99 beside throughput."""
    points = list(_points(report))
    varied = _varied([point.at for point in points])
    if not varied or varied[0] == "model":
        return
    yield Plot(_SWEEP, f"throughput by {varied[0]}", _throughputs(points, varied))
    if sum(point.p99_ms is not None for point in points) > 1:
        limit_ms = (report.get("best") or {}).get("limit_ms")
        yield Plot(_SWEEP, "latency and throughput", _trade(points, varied, limit_ms))


def _points(report: Mapping[str, Any]) -> Iterator[_Point]:
    for runs in by_setting(report["runs"]):
        rated, timed = rated_and_timed(runs)
        throughput = (main_figures(rated) or {}).get("throughput") if rated is not None else None
        if throughput is None:
            continue
        yield _Point(
            at={"model": model_of(runs[0]), **runs[0]["setting"]},
            images_per_s=throughput["images_per_s"],
            interval=interval_of(throughput),
            p99_ms=(main_figures(timed) or {})["latency_ms"]["p99"] if timed is not None else None,
            marks=best_in(runs[0], report),
        )


def _varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was varied, the axis first; without what follows from the rest, as threads that share the cores."""
    kept: list[str] = []
    for name in _VARIED:
        groups: dict[tuple[Any, ...], set[Any]] = {}
        for setting in settings:
            groups.setdefault(tuple(setting[one] for one in kept), set()).add(setting[name])
        if any(len(values) > 1 for values in groups.values()):
            kept.append(name)
    return sorted(kept, key=lambda name: name == "model")


def _lines(points: Sequence[_Point], varied: Sequence[str]) -> dict[str, list[_Point]]:
    """Settings that differ only along the axis, by what they have in common."""
    lines: dict[str, list[_Point]] = {}
    for point in points:
        words = (_word(name, point.at[name]) for name in varied[1:])
        lines.setdefault(", ".join(words), []).append(point)
    return lines


def _word(name: str, value: Any) -> str:
    """A number of a setting with its noun."""
    if name == "model":
        return str(value)
    if value is None:
        return f"no {name}"
    return f"batch {value}" if name == "batch" else counted(value, name.removesuffix("s"))


def _order(value: int | None) -> int:
    """Of a number of a setting; models without streams come first."""
    return -1 if value is None else value


def _height(lines: Collection[str]) -> int:
    """In pixels: a legend of many lines takes the room of the plot."""
    return 380 + 12 * max(0, len(lines) - 4)


def _throughputs(points: Sequence[_Point], varied: Sequence[str]) -> dict[str, Any]:
    lines = _lines(points, varied)
    traces = []
    for number, (name, line) in enumerate(lines.items()):
        line = sorted(line, key=lambda point: _order(point.at[varied[0]]))
        reach = [ends(point.interval, point.images_per_s) for point in line]
        colour, mark = other_style(number)
        traces.append(
            go.Scatter(
                x=[str(point.at[varied[0]]) for point in line],
                y=[point.images_per_s for point in line],
                error_y={
                    "array": [up for up, _ in reach],
                    "arrayminus": [down for _, down in reach],
                    "width": 3,
                },
                name=label(name) or "images/s",
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 8, "symbol": mark},
                hovertemplate=f"{varied[0]} %{{x}}: %{{y:.1f}} images/s" + NAMED,
            )
        )
    traces += _rings(points, x=lambda point: str(point.at[varied[0]]), y=lambda point: point.images_per_s)
    order = [str(value) for value in sorted({point.at[varied[0]] for point in points}, key=_order)]
    x = axis(varied[0], type="category", categoryorder="array", categoryarray=order)
    return drawn(traces, height=_height(lines), x=x, y=axis("images/s", rangemode="tozero"))


def _trade(points: Sequence[_Point], varied: Sequence[str], limit_ms: float | None) -> dict[str, Any]:
    """The 99th percentile over the throughput: right and low is good."""
    lines = _lines([point for point in points if point.p99_ms is not None], varied)
    names = list(_lines(points, varied))
    traces = [_trade_of(line, varied[0], name=name, number=names.index(name)) for name, line in lines.items()]
    timed = [point for line in lines.values() for point in line]
    traces += _rings(timed, x=lambda point: point.images_per_s, y=lambda point: point.p99_ms)
    if len(timed) <= _FEW:
        traces.append(_names(timed, varied[0]))
    values = [point.p99_ms for point in timed]
    if limit_ms is not None:
        values.append(limit_ms)
        furthest = max(point.images_per_s for point in timed)
        name = f"limit of p99, {limit_ms:g} ms"
        traces.append(straight(x=(0, furthest), y=(limit_ms, limit_ms), name=name))
    x = axis("images/s", rangemode="tozero")
    return drawn(traces, height=_height(lines), x=x, y=axis("p99, ms", **scale(values)))


def _trade_of(line: Sequence[_Point], varied: str, *, name: str, number: int) -> Any:
    colour, mark = other_style(number)
    return go.Scatter(
        x=[point.images_per_s for point in line],
        y=[point.p99_ms for point in line],
        text=[_word(varied, point.at[varied]) for point in line],
        name=label(name) or "settings",
        mode="markers",
        marker={"color": colour, "size": 9, "symbol": mark},
        hovertemplate="%{text}: %{x:.1f} images/s, p99 %{y:.2f} ms" + NAMED,
    )


def _names(points: Sequence[_Point], varied: str) -> Any:
    """What was varied as text, far enough above each point for its rings."""
    return go.Scatter(
        x=[point.images_per_s for point in points],
        y=[point.p99_ms for point in points],
        text=[_word(varied, point.at[varied]) for point in points],
        mode="markers+text",
        textposition="top center",
        marker={"color": CLEAR, "size": 18},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )


def _rings(
    points: Sequence[_Point], *, x: Callable[[_Point], Any], y: Callable[[_Point], Any]
) -> Iterator[Any]:
    """Around the best settings; one that is best in two ways has two."""
    names = dict.fromkeys(mark for point in points for mark in point.marks)
    for name, (mark, size) in zip(names, _RINGS, strict=False):
        best = [point for point in points if name in point.marks]
        yield go.Scatter(
            x=[x(point) for point in best],
            y=[y(point) for point in best],
            name=name,
            mode="markers",
            marker={"symbol": mark, "size": size, "color": SCOPE_COLOURS["e2e"], "line": {"width": 2.5}},
            hoverinfo="skip",
        )


# ratios


class _Ratio(NamedTuple):
    """A ratio in a row of a plot.

    Attributes:
        row: Which row, from the top.
        ratio: Its values.
    """

    row: float
    ratio: Mapping[str, Any]


def beside_engine(report: Mapping[str, Any]) -> Iterator[Plot]:
    """What share of the bare engine's throughput each scope of each run reaches, with its interval.

    A load whose rate is given says nothing of what could be reached: of it only `infer` is shown.
    """
    runs = [run for run in _telling_runs(report) if _of_engine(run)]
    if not runs:
        return
    rows = [
        f"{label(words or load_of(run))}: {_in_words(_of_engine(run))}"
        for words, run in zip(labels_of(runs), runs, strict=True)
    ]
    traces, reach = [], [1.0]
    for scope, shift in (("e2e", 0.0), ("infer", 0.24)):
        found = [
            _Ratio(number + shift, ratios[scope])
            for number, ratios in enumerate(map(_of_engine, runs))
            if scope in ratios
        ]
        if found:
            traces.append(_dots(found, name=f"{scope} / engine", colour=SCOPE_COLOURS[scope]))
            reach += [end for one in found for end in (one.ratio["ratio"], *(interval_of(one.ratio) or ()))]
    low = 0.0 if min(reach) < _SMALL else min(reach) - 0.08
    x = axis("share of the engine's images/s", range=[low, max(reach) + 0.05])
    yield Plot(_ENGINE, "", _rows(traces, rows, one="bare engine", x=x))


def _telling_runs(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All runs; of a sweep those that show the throughput of their setting."""
    if report.get("best") is None:
        return list(report["runs"])
    rated = (rated_and_timed(runs)[0] for runs in by_setting(report["runs"]))
    return [run for run in rated if run is not None]


def _of_engine(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    scopes = ("infer",) if is_open(run) else ("e2e", "infer")
    found = {scope: run["ratios"].get(f"{scope}/engine") for scope in scopes}
    return {scope: ratio for scope, ratio in found.items() if ratio is not None}


def _in_words(ratios: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {ratio['ratio']:.2f}" for name, ratio in ratios.items())


def beside_peers(report: Mapping[str, Any]) -> Iterator[Plot]:
    """How many times as fast `e2e` is as each peer."""
    pairs = [
        (run, peer) for run in report["runs"] for peer in run["peers"] if run["ratios"].get(f"e2e/{peer}")
    ]
    if not pairs:
        return
    runs = [run for run, _ in pairs]
    rows = [
        f"{label(f'{peer}, {words}' if words else peer)}: {run['ratios'][f'e2e/{peer}']['ratio']:.2f}"
        for (run, peer), words in zip(pairs, labels_of(runs), strict=True)
    ]
    found = [_Ratio(number, run["ratios"][f"e2e/{peer}"]) for number, (run, peer) in enumerate(pairs)]
    traces = [_dots(found, name="e2e / peer", colour=SCOPE_COLOURS["e2e"])]
    reach = [one.ratio["ratio"] for one in found]
    low, high = min(1.0, *reach), max(1.0, *reach)
    x = axis(
        "times as fast as the peer", type="log", range=[math.log10(low / 1.6), math.log10(high * 1.6)],
        tickvals=_TIMES, ticktext=[f"{times:g}" for times in _TIMES],
    )  # fmt: skip
    yield Plot(_PEERS, "", _rows(traces, rows, one="as fast as the peer", x=x))


def _dots(found: Sequence[_Ratio], *, name: str, colour: str) -> Any:
    middles = [one.ratio["ratio"] for one in found]
    reach = [ends(interval_of(one.ratio), middle) for one, middle in zip(found, middles, strict=True)]
    return go.Scatter(
        x=middles,
        y=[one.row for one in found],
        error_x={
            "array": [up for up, _ in reach],
            "arrayminus": [down for _, down in reach],
            "width": 4,
            "thickness": 1.5,
        },
        name=name,
        mode="markers",
        marker={"color": colour, "size": 9},
        hovertemplate="%{x:.3f}" + NAMED,
    )


def _rows(traces: Sequence[Any], rows: Sequence[str], *, one: str, x: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios in rows, the text of each above it, and a line where both are alike."""
    y = axis("", range=[len(rows) - 0.5, -0.55], showgrid=False, showticklabels=False, fixedrange=True)
    line = straight(x=(1, 1), y=(-0.55, len(rows) - 0.5), name=one)
    figure = drawn(
        [line, *traces], height=110 + (_ROW if len(rows) <= _FEW else _LOW_ROW) * len(rows), x=x, y=y
    )
    above = {"xref": "paper", "x": 0.01, "xanchor": "left", "showarrow": False}
    figure["layout"]["annotations"] = [above | {"y": at - 0.3, "text": row} for at, row in enumerate(rows)]
    return figure
