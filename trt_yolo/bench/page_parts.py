"""What every page of a bench has: its style and its script. Neither asks the network for anything.

The script hands each figure to plotly.js, with the page's own colour of text, and follows when that changes.
"""

STYLE = """
:root{--paper:#fff;--ink:#1c1e21;--quiet:#62676f;--line:#dcdfe3;--panel:#f6f7f8;
--e2e:#0072b2;--infer:#d55e00;--engine:#009e73;--good:#00724f;--bad:#b03a00}
@media (prefers-color-scheme:dark){
:root{--paper:#15171b;--ink:#e6e8eb;--quiet:#9aa1ab;--line:#30343b;--panel:#1d2025;--good:#4cc9a0;--bad:#ff9455}}
*{box-sizing:border-box}
body{background:var(--paper);color:var(--ink);margin:0 auto;padding:2rem 1.5rem 4rem;max-width:78rem;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
header{border-bottom:1px solid var(--line);padding-bottom:1.1rem}
.over{color:var(--quiet);font-size:.8rem;margin:0}
h1{font-size:1.55rem;line-height:1.25;font-weight:650;margin:.15rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.12rem;font-weight:650;margin:2.6rem 0 .5rem}
h3{font-size:.9rem;font-weight:600;margin:.2rem 0 .3rem;overflow-wrap:anywhere}
p{margin:.3rem 0}.quiet{color:var(--quiet)}
.note{color:var(--quiet);font-size:.85rem;max-width:60rem}
.badge{display:inline-block;border:1.5px solid;border-radius:4px;padding:0 .45rem;font-size:.75rem;font-weight:650;
vertical-align:.15em;margin-right:.4rem;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,16.5rem),1fr));gap:.9rem;margin:1.3rem 0}
.card{background:var(--panel);border-radius:6px;padding:.8rem 1rem .9rem;border-top:3px solid var(--e2e);min-width:0}
.card.infer{border-color:var(--infer)}.card.engine{border-color:var(--engine)}
.card h3{color:var(--quiet);font-weight:500;font-size:.82rem;margin:0}
.figure{font-size:2rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums;margin:.1rem 0}
.figure small{font-size:.9rem;font-weight:500;color:var(--quiet);margin-left:.15rem}
.card p:not(.figure){font-size:.85rem;color:var(--quiet);margin:.1rem 0;font-variant-numeric:tabular-nums}
.card p.good{color:var(--good)}.card p.bad{color:var(--bad)}
.advice{margin:1.2rem 0;padding:.1rem 0 .1rem 1.1rem;border-left:3px solid var(--e2e);list-style:none}
.advice li{margin:.35rem 0;max-width:62rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums;margin:.3rem 0}
th,td{padding:.28rem .9rem .28rem 0;text-align:left;vertical-align:top}
th{font-weight:500;color:var(--quiet);border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:bottom}
td.number,th.number{text-align:right;white-space:nowrap}
tr.group td{padding-top:.9rem;font-weight:600;overflow-wrap:anywhere;border-bottom:1px solid var(--line)}
tr.group div{position:sticky;left:0;max-width:min(100%,100vw - 2.5rem)}.scope{white-space:nowrap}
tr.group:first-child td{padding-top:.3rem}
tr.best td{font-weight:650}
.facts td:first-child{color:var(--quiet);white-space:nowrap}.facts td{overflow-wrap:anywhere}
.dot{display:inline-block;width:.65rem;height:.65rem;border-radius:50%;margin-right:.45rem;background:var(--quiet)}
.dot.e2e{background:var(--e2e)}.dot.infer{background:var(--infer)}.dot.engine{background:var(--engine)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:1.2rem 1.6rem}
figure{margin:0;min-width:0}
details{margin:1rem 0}summary{cursor:pointer;font-weight:600}
code{font:.85rem/1.5 ui-monospace,Menlo,Consolas,monospace}
pre{background:var(--panel);border-radius:6px;padding:.7rem .9rem;white-space:pre-wrap;overflow-wrap:anywhere}
@media (max-width:40rem){body{padding:1.2rem .9rem 3rem}.figure{font-size:1.7rem}}
@media print{body{max-width:none}details{display:none}figure{break-inside:avoid}}
"""

SCRIPT = """
(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var isTouched = window.matchMedia("(pointer: coarse)").matches;
  var config = {
    responsive: true,
    displaylogo: false,
    typesetMath: false,
    displayModeBar: "hover",
    modeBarButtons: [["toImage", "resetScale2d"]]
  };
  function ink() { return window.getComputedStyle(document.body).color; }
  function place(number) { return document.getElementById("figure-" + number); }
  figures.forEach(function (figure, number) {
    figure.layout.font.color = ink();
    if (isTouched) figure.layout.dragmode = false;  // a finger scrolls the page
    Plotly.newPlot(place(number), figure.data, figure.layout, config);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    figures.forEach(function (_, number) { Plotly.relayout(place(number), { "font.color": ink() }); });
  });
})();
"""
