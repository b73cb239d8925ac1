"""What every plot of a bench's page has in common: colours, axes, and how text gets into it.

Colours are those of Okabe and Ito, which people tell apart who do not see all colours. A scope has the same one
everywhere, and they are seen on white and on black; dashes and marks tell models and settings apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import plotly.graph_objects as go

from trt_yolo.bench.cells import printable, shortened

SCOPE_COLOURS = {"e2e": "#0072B2", "infer": "#D55E00", "engine": "#009E73"}
_OTHER_COLOURS = ("#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C", "#B8A800")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross")
QUIET = "#8C8C8C"
CLEAR = "rgba(0,0,0,0)"
NAMED = "<extra>%{fullData.name}</extra>"

_WIDE_SPAN = 8.0  # an axis whose largest value is so many times its smallest is logarithmic


class Plot(NamedTuple):
    """A plot of the page.

    Attributes:
        section: Under which heading it stands.
        title: What it shows; empty where the heading says so.
        figure: What plotly.js draws: `data` and `layout`.
    """

    section: str
    title: str
    figure: Mapping[str, Any]


def label(text: object) -> str:
    """Text as plotly.js shows it: it would take tags for tags."""
    return escape(shortened(printable(text)), quote=False)


def other_style(number: int) -> tuple[str, str]:
    """Colour and mark of a line that is no scope, by its number: the first 25 differ."""
    rounds, at = divmod(number, len(_OTHER_COLOURS))
    return _OTHER_COLOURS[at], _MARKS[(at + rounds) % len(_MARKS)]


def see_through(colour: str, opacity: float) -> str:
    """A colour `#RRGGBB` that lets others through."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with that title."""
    return {
        "title": {"text": title, "standoff": 10},
        "automargin": True,
        "gridcolor": "rgba(128,128,128,0.22)",
        "linecolor": "rgba(128,128,128,0.6)",
        "zeroline": False,
        **more,
    }


def scale(values: Sequence[float | None]) -> dict[str, Any]:
    """Of a latency's axis: from 0 on, or logarithmic where the largest value would flatten the others."""
    known = [value for value in values if value is not None and value > 0]
    if known and max(known) > _WIDE_SPAN * min(known):
        return {"type": "log", "dtick": "D2" if max(known) < 1e3 * min(known) else 1}
    return {"rangemode": "tozero"}


def drawn(
    traces: Sequence[Any], *, height: int, x: Mapping[str, Any], y: Mapping[str, Any]
) -> dict[str, Any]:
    """The figure of traces: `data` and `layout`, plain values. The page's script gives text its colour.

    Args:
        traces: What is drawn.
        height: In pixels.
        x: The axis, see `axis`.
        y: The other one.
    """
    layout = go.Layout(
        template={},
        height=height,
        margin={"l": 48, "r": 14, "t": 12, "b": 40},
        font={"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        hovermode="closest",
        modebar={"bgcolor": CLEAR, "color": QUIET, "activecolor": QUIET},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "itemsizing": "constant"},
        xaxis=x,
        yaxis=y,
    )
    figure: dict[str, Any] = go.Figure(list(traces), layout).to_plotly_json()
    return {"data": figure["data"], "layout": figure["layout"]}


def straight(*, x: Sequence[float], y: Sequence[float], name: str) -> Any:
    """A dashed line between two points that is no measurement: a limit, what was found."""
    return go.Scatter(
        x=x, y=y, name=name, mode="lines", line={"color": QUIET, "width": 1.5, "dash": "dash"}, hoverinfo="name"
    )  # fmt: skip


def dashes(names: Sequence[str]) -> dict[str, str]:
    """A dash for each name, the first one's solid; from the beginning again where there are more than dashes."""
    return dict(zip(dict.fromkeys(names), itertools.cycle(_DASHES), strict=False))


def ends(interval: tuple[float, float] | None, middle: float) -> tuple[float | None, float | None]:
    """How far an error bar reaches up and down from its middle."""
    return (None, None) if interval is None else (interval[1] - middle, middle - interval[0])
