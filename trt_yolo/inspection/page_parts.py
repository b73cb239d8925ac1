"""What every page of an inspection has: its style and its script. Neither asks the network for anything.

The script moves the picture by the SVG's viewBox and shows a box's title in the panel, as text.
"""

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
