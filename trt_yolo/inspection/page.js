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
