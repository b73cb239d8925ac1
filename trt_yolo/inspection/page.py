"""One HTML page of an inspection: facts, sums by precision, and the graph as a picture that can be moved.

Enters: an `Inspection`. Leaves: the page's text, which asks the network for nothing. What comes from the file is
escaped, and the page forbids every script but its own (`page.js`), by its hash.
Colours are those of Okabe and Ito, which people tell apart who do not see all colours; each box says its precision too.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from trt_yolo.inspection.inspection import Inspection, Share, amount, shape_text
from trt_yolo.inspection.layout import Layout, Point, layout_of
from trt_yolo.inspection.picture import INPUT, OUTPUT, Box, Edge, fold

MOST_BOXES = 4000
_CHARACTER, _LINE, _PADDING = 6.7, 15.0, 8.0  # pixels
_LONGEST_LINE = 30  # characters
_SMALL = frozenset(
    {
        "Reshape", "Transpose", "Split", "Concat", "Slice", "Squeeze", "Unsqueeze", "Identity", "Cast", "Gather",
        "Expand", "Flatten", "Shape", "GatherElements", "Reformat", "NoOp", "Shuffle", "reshape", "Pad",
    }
)  # fmt: skip


def page_from_inspection(inspection: Inspection) -> str:
    """The page."""
    title = escape(inspection.path)
    body = [
        f"<h1>{title}</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in inspection.notes),
        _facts(inspection),
        _sums(inspection),
        _picture(inspection),
        _all_layers(inspection),
        _manifest(inspection),
    ]
    style, script = (
        resources.files(__package__).joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>",
            *body,
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _facts(inspection: Inspection) -> str:
    rows = [
        ("format", inspection.format),
        ("size", f"{inspection.bytes / 1e6:.1f} MB"),
        ("parameters", f"{inspection.parameters:,}"),
        *((f"input {one.name}", f"{one.dtype} {shape_text(one.shape)}") for one in inspection.inputs),
        *((f"output {one.name}", f"{one.dtype} {shape_text(one.shape)}") for one in inspection.outputs),
        *inspection.facts.items(),
    ]
    if inspection.loads_here is not None:
        rows.append(("loads here", "yes" if inspection.loads_here else f"no: {inspection.why_not}"))
    return _table(["", ""], rows)


def _manifest(inspection: Inspection) -> str:
    """Under the picture, folded: it is long, and what matters of it stands at the top."""
    if inspection.manifest is None:
        return ""
    rows = list(_entries(dataclasses.asdict(inspection.manifest)))
    return f"<details><summary>Manifest</summary>{_table(['', ''], rows)}</details>"


def _entries(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Everything that says something, what lies inside one level deeper with its place before it."""
    for key, value in values.items():
        if isinstance(value, dict) and key != "names":
            yield from _entries(value, f"{prefix}{key} ")
        elif value not in ("", None, (), {}):
            yield f"{prefix}{key}", str(value)


def _sums(inspection: Inspection) -> str:
    columns = ["precision", "layers", "convolutions", "matrix products", "parameters", "multiply-accumulates"]
    total = sum(share.macs for share in inspection.precisions.values())
    rows = [
        (precision or "unknown", *_numbers(share, total))
        for precision, share in inspection.precisions.items()
    ]
    quantizers = ""
    if inspection.quantize_nodes or inspection.dequantize_nodes:
        counts = f"{inspection.quantize_nodes} QuantizeLinear, {inspection.dequantize_nodes} DequantizeLinear"
        quantizers = f"<p>{counts}</p>"
    return (
        f'<h2>Precision</h2><p class="headline">{escape(inspection.headline)}</p>'
        f"{_table(columns, rows, numbers=True)}{quantizers}"
    )


def _numbers(share: Share, total: int) -> list[str]:
    macs = f"{amount(share.macs)} ({100 * share.macs / total:.1f}%)" if total and share.macs else ""
    counts = [str(count or "") for count in (share.layers, share.convolutions, share.products)]
    return [*counts, amount(share.parameters), macs]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns) if any(columns) else ""
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table class="{"numbers" if numbers else "facts"}"><tr>{head}</tr>\n{body}</table>'


def _all_layers(inspection: Inspection) -> str:
    columns = ["layer", "kind", "precision", "parameters", "multiply-accumulates", "ms"]
    rows = [
        (
            layer.name,
            layer.kind,
            layer.precision,
            str(layer.parameters or ""),
            "" if layer.macs is None else amount(layer.macs),
            "" if layer.time_ms is None else f"{layer.time_ms:.4f}",
        )
        for layer in inspection.layers
    ]
    return f"<details><summary>All {len(rows)} layers</summary>{_table(columns, rows)}</details>"


def _picture(inspection: Inspection) -> str:
    boxes, edges = fold(inspection)
    if not inspection.layers:
        return "<h2>Graph</h2><p>The graph has no layers.</p>"
    if len(boxes) > MOST_BOXES:
        return (
            f"<h2>Graph</h2><p>The graph has {len(boxes)} boxes, more than the {MOST_BOXES} that can be drawn "
            "so that anything is seen; its layers are in the table below.</p>"
        )
    layout = layout_of([_size(box) for box in boxes], [(edge.source, edge.target) for edge in edges])
    slowest = max((box.time_ms or 0.0 for box in boxes), default=0.0)
    shapes = [_edge(edge, route) for edge, route in zip(edges, layout.routes, strict=True)]
    shapes += [_box(box, place, slowest) for box, place in zip(boxes, layout.places, strict=True)]
    marks = [_mark(edge, route) for edge, route in zip(edges, layout.routes, strict=True)]
    drawing = "\n".join([*shapes, *marks])
    return f"<h2>Graph</h2>{_legend(boxes, slowest)}{_frame(layout, drawing)}"


def _frame(layout: Layout, drawing: str) -> str:
    view = f"-20 -20 {layout.width + 40:.0f} {layout.height + 40:.0f}"
    return (
        f'<div class="picture"><svg id="graph" viewBox="{view}" preserveAspectRatio="xMidYMin meet" '
        f'role="img" aria-label="the layers, from top to bottom">\n{drawing}\n</svg>'
        '<pre id="details">Wheel: zoom. Drag: move. Double click: all. Click a box: what it is.</pre></div>'
    )


def _legend(boxes: Sequence[Box], slowest: float) -> str:
    there = dict.fromkeys(box.precision for box in boxes if box.layers)
    parts = [f'<span class="key {_style(one)}">{escape(one or "unknown")}</span>' for one in there]
    if slowest:
        parts.append(f'<span class="key heat">time, up to {slowest:.3f} ms</span>')
    return f'<p class="legend">{" ".join(parts)} <span class="key edge">edge through Q/DQ</span></p>'


def _style(precision: str) -> str:
    return f"p-{precision or 'unknown'}"


def _lines(box: Box) -> list[str]:
    shape = shape_text(box.shape)
    if box.kind in _SMALL:
        return [_cut(f"{box.kind}  {shape}")]
    time = "" if box.time_ms is None else f"  {box.time_ms:.3f} ms"
    return [
        _cut(f"{box.kind}  {box.precision}".strip()), _cut(box.name, from_left=True), _cut(f"{shape}{time}"),
    ]  # fmt: skip


def _cut(text: str, *, from_left: bool = False) -> str:
    """A line that fits; of names the end tells more than the beginning."""
    text = "".join(mark if mark.isprintable() else " " for mark in text)
    if len(text) <= _LONGEST_LINE:
        return text
    return f"…{text[1 - _LONGEST_LINE :]}" if from_left else f"{text[: _LONGEST_LINE - 1]}…"


def _size(box: Box) -> tuple[float, float]:
    lines = _lines(box)
    return max(map(len, lines)) * _CHARACTER + 2 * _PADDING + 4, len(lines) * _LINE + _PADDING


def _box(box: Box, place: Point, slowest: float) -> str:
    width, height = _size(box)
    x, y = place
    kind = "end" if box.kind in (INPUT, OUTPUT) and not box.layers else _style(box.precision)
    parts = [f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"/>']
    if slowest and box.time_ms is not None:
        heat = box.time_ms / slowest
        parts.append(
            f'<rect class="stripe" x="{x:.1f}" y="{y:.1f}" width="6" height="{height:.1f}" '
            f'style="opacity:{max(heat, 0.05):.2f}"/>'
        )
    for number, line in enumerate(_lines(box)):
        weight = ' class="kind"' if number == 0 else ""
        parts.append(
            f'<text{weight} x="{x + _PADDING + 2:.1f}" y="{y + (number + 1) * _LINE - 1:.1f}">{escape(line)}</text>'
        )
    return f'<g class="box {kind}"><title>{escape(_details(box))}</title>{"".join(parts)}</g>'


def _details(box: Box) -> str:
    lines = [f"{box.kind}  {box.precision}".strip(), box.name, f"makes {shape_text(box.shape)}"]
    if box.parameters:
        lines.append(f"parameters: {box.parameters:,}")
    if box.macs is not None:
        lines.append(f"multiply-accumulates: {box.macs:,}")
    if box.time_ms is not None:
        lines.append(f"time: {box.time_ms:.4f} ms")
    for layer in box.layers:
        if len(box.layers) > 1:
            lines.append(f"{layer.kind}  {layer.precision}  {layer.name}")
        lines += [f"  reads {name}" for name in layer.inputs] + [f"  makes {name}" for name in layer.outputs]
    return "\n".join(lines)


def _edge(edge: Edge, route: Sequence[Point]) -> str:
    if not route:
        return ""
    (x, y), *others = route
    path = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in others:
        middle = (y + to_y) / 2
        straight = abs(to_x - x) < 0.5
        path.append(
            f"L{to_x:.1f} {to_y:.1f}"
            if straight
            else f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"
        )
        x, y = to_x, to_y
    return f'<path class="{"edge quantized" if edge.quantized else "edge"}" d="{" ".join(path)}"/>'


def _mark(edge: Edge, route: Sequence[Point]) -> str:
    """The type of what Q/DQ let through, above the box that reads it."""
    if not (edge.quantized and route):
        return ""
    x, y = route[-1]
    return f'<text class="mark" x="{x + 3:.1f}" y="{y - 4:.1f}">{escape(edge.quantized)}</text>'
