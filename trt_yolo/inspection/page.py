"""One HTML page of an inspection: facts, sums by precision, and the graph as a picture that can be moved.

Enters: an `Inspection`. Leaves: the page's text, which asks the network for nothing. What comes from the file is
escaped, and the page forbids every script but its own, by its hash.
Colours are those of Okabe and Ito, which people tell apart who do not see all colours; each box says its precision too.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
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
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *body,
            f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
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


# the picture


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


# What every page of an inspection has: its style and its script. Neither asks the network for anything.
STYLE = """
:root{--paper:#fff;--ink:#1b1b1b;--quiet:#666;--line:#8a8a8a;--panel:#f4f4f4;--quantized:#0072b2}
@media (prefers-color-scheme:dark){
:root{--paper:#16181c;--ink:#e8e8e8;--quiet:#a0a0a0;--line:#8d939c;--panel:#22252b;--quantized:#56b4e9}}
body{background:var(--paper);color:var(--ink);font:14px/1.45 system-ui,sans-serif;margin:1.5rem;max-width:100rem}
h1{font-size:1.25rem;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:1.4rem 0 .4rem}
table{border-collapse:collapse}td,th{padding:.12rem .8rem .12rem 0;text-align:left;vertical-align:top}
td{overflow-wrap:anywhere}.facts td:first-child{color:var(--quiet);white-space:nowrap}
.numbers td:not(:first-child),.numbers th:not(:first-child){text-align:right}
.headline{font-weight:600}.note{border-left:4px solid #d55e00;padding-left:.6rem}
details{margin:1rem 0}summary{cursor:pointer}
.picture{display:grid;grid-template-columns:minmax(0,1fr) 22rem;gap:.8rem;height:85vh}
@media (max-width:60rem){.picture{grid-template-columns:1fr;grid-template-rows:1fr 12rem}}
svg{width:100%;height:100%;border:1px solid var(--line);border-radius:4px;cursor:grab;touch-action:none}
pre{background:var(--panel);margin:0;padding:.7rem;overflow:auto;border-radius:4px;font-size:12px;
white-space:pre-wrap;overflow-wrap:anywhere}
svg text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#111;white-space:pre}
svg text.kind{font-weight:700}svg text.mark{fill:var(--quantized);font-size:9px}
.box{cursor:pointer}.box rect{stroke:#333;stroke-width:.8}.box.on>rect:first-of-type{stroke:var(--ink);stroke-width:3}
.edge{fill:none;stroke:var(--line);stroke-width:1.2}.edge.quantized{stroke:var(--quantized);stroke-width:2.6}
.end rect{fill:#fff;stroke-dasharray:4 2}.stripe{fill:#c1121f}.box rect.stripe{stroke:none}
.key{display:inline-block;color:#111;background:#fff;border:1px solid #333;border-radius:3px;padding:0 .5rem}
.key.heat{background:linear-gradient(90deg,#c1121f 8px,#fff 8px);padding-left:1rem}
.key.edge{border-color:var(--quantized);border-width:0 0 3px;background:none;color:var(--ink)}
.p-int8 rect{fill:#56b4e9}.key.p-int8{background:#56b4e9}
.p-uint8 rect{fill:#2fbf91}.key.p-uint8{background:#2fbf91}
.p-fp16 rect{fill:#f0b43c}.key.p-fp16{background:#f0b43c}
.p-bf16 rect{fill:#e88a4a}.key.p-bf16{background:#e88a4a}
.p-fp32 rect{fill:#d4d4d4}.key.p-fp32{background:#d4d4d4}
.p-fp8 rect,.p-fp4 rect,.p-int4 rect{fill:#dba3c4}.key.p-fp8,.key.p-fp4,.key.p-int4{background:#dba3c4}
.p-mixed rect{fill:#f0e442}.key.p-mixed{background:#f0e442}
.p-int16 rect,.p-int32 rect,.p-int64 rect,.p-bool rect,.p-fp64 rect,.p-unknown rect{fill:#fafafa}
.box rect.stripe{fill:#c1121f}
"""

SCRIPT = """
(function () {
  "use strict";
  var svg = document.getElementById("graph");
  if (!svg) return;
  var panel = document.getElementById("details");
  var all = svg.getAttribute("viewBox").split(" ").map(Number);
  var view = all.slice(), from = null, moved = false, chosen = null;
  function show() { svg.setAttribute("viewBox", view.join(" ")); }
  function scale() { return Math.max(view[2] / svg.clientWidth, view[3] / svg.clientHeight) || 1; }
  function top() {  // the first screen's boxes, not the middle of the whole: a graph drifts to a side
    var low = Infinity, high = -Infinity, boxes = svg.querySelectorAll(".box");
    for (var index = 0; index < boxes.length; index += 1) {
      var place = boxes[index].getBBox();
      if (place.y > all[1] + svg.clientHeight) continue;
      low = Math.min(low, place.x);
      high = Math.max(high, place.x + place.width);
    }
    var wide = Math.max(svg.clientWidth, 400, Math.min(high - low + 40, svg.clientWidth * 1.6));
    view = [(low + high - wide) / 2, all[1], wide, wide * svg.clientHeight / (svg.clientWidth || 1)];
    show();
  }
  svg.addEventListener("wheel", function (event) {
    event.preventDefault();
    var factor = Math.exp(Math.max(-100, Math.min(100, event.deltaY)) * 0.002);
    var wide = view[2] * factor;
    if (wide < 60 || wide > all[2] * 20 + 10000) return;
    var frame = svg.getBoundingClientRect();
    var x = (event.clientX - frame.left) / (frame.width || 1), y = (event.clientY - frame.top) / (frame.height || 1);
    view = [view[0] + view[2] * (1 - factor) * x, view[1] + view[3] * (1 - factor) * y, wide, view[3] * factor];
    show();
  }, { passive: false });
  svg.addEventListener("pointerdown", function (event) {
    from = [event.clientX, event.clientY, view[0], view[1]];
    moved = false;
  });
  window.addEventListener("pointermove", function (event) {
    if (!from) return;
    var dx = event.clientX - from[0], dy = event.clientY - from[1];
    if (Math.abs(dx) + Math.abs(dy) > 4) moved = true;
    if (!moved) return;
    view[0] = from[2] - dx * scale();
    view[1] = from[3] - dy * scale();
    show();
  });
  window.addEventListener("pointerup", function () { from = null; });
  window.addEventListener("pointercancel", function () { from = null; });
  svg.addEventListener("dblclick", function () { view = all.slice(); show(); });
  svg.addEventListener("click", function (event) {
    var box = event.target.closest ? event.target.closest(".box") : null;
    if (moved || !box) return;
    if (chosen) chosen.classList.remove("on");
    chosen = box;
    box.classList.add("on");
    panel.textContent = box.querySelector("title").textContent;
  });
  top();
})();
"""
