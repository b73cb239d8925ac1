"""The page of a bench: what it shows, what it leaves out, that nothing of a report becomes part of it, and Chromium."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.bench import browser, reports
from trt_yolo.bench.page import page_of
from trt_yolo.bench.report import Report
from trt_yolo.bench.statistics import Ratio
from trt_yolo.errors import InputError, MissingDependencyError

pytest.importorskip("plotly", reason="a page with plots needs plotly: pip install 'trt-yolo[report]'")

_VOID = frozenset({"meta", "link"})
_ELEMENTS = frozenset(
    {
        "html", "head", "meta", "link", "title", "style", "body", "header", "section", "h1", "h2", "h3", "p", "div",
        "span", "small", "code", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "figure", "details",
        "summary", "noscript", "script",
    }
)  # fmt: skip
_ATTRIBUTES = frozenset(
    {
        "lang", "charset", "http-equiv", "content", "name", "rel", "href", "class", "id", "type", "colspan", "style",
        "role", "aria-label",
    }
)  # fmt: skip
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


class _Page(HTMLParser):
    """A page's elements, attributes and texts; fails where an element is not closed."""

    def __init__(self, report: Report | dict[str, Any]) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.text = page_of(report if isinstance(report, dict) else reports.values_of(report))
        self.feed(self.text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    @property
    def sections(self) -> list[str]:
        return self.texts.get("h2", [])

    @property
    def figures(self) -> list[dict[str, Any]]:
        data = [text for text in self.texts.get("script", []) if text.startswith("[{")]
        return json.loads(data[0]) if data else []

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each table's rows, as text."""
        cells: list[list[str]] = []
        at = iter(self.texts.get("td", []))
        for tag, _ in self.elements:
            if tag == "tr":
                cells.append([])
            elif tag == "td":
                cells[-1].append(" ".join(next(at).split()))
        return [row for row in cells if row]

    def row(self, *starts: str) -> list[str]:
        """The first row with such cells in front."""
        return next(row for row in self.rows if row[: len(starts)] == list(starts))

    def plots(self, section: str) -> list[dict[str, Any]]:
        """The figures under a heading."""
        places = [
            int(str(has["id"]).removeprefix("figure-"))
            for tag, has in self.elements
            if has.get("role") == "img" and str(has["aria-label"]).startswith(section)
        ]
        return [self.figures[place] for place in places]


def _names(figure: dict[str, Any]) -> list[str]:
    """What a plot's legend says."""
    return [trace["name"] for trace in figure["data"] if trace.get("showlegend", True)]


def _trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    """The trace of that name; of a scope, its line."""
    return next(
        one
        for one in figure["data"]
        if name in (one.get("name"), one.get("meta"))
        and "lines" in one.get("mode", "lines")
        and one["x"] != [None]
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@pytest.fixture(params=list(reports.ALL), scope="module")
def report(request: pytest.FixtureRequest) -> Report:
    """Each of the reports."""
    return reports.ALL[request.param]()


# every page


def test_a_page_is_of_its_own_elements_only(report: Report) -> None:
    page = _Page(report)
    for tag, attributes in page.elements:
        assert tag in _ELEMENTS, tag
        assert set(attributes) <= _ATTRIBUTES, attributes
        assert tag == "link" or "href" not in attributes
    assert [has for tag, has in page.elements if tag == "link"] == [{"rel": "icon", "href": "data:,"}]
    (style,) = page.texts["style"]
    assert not any(mark in style for mark in ("url(", "@import", "//"))


def test_a_page_forbids_all_but_its_own_scripts(report: Report) -> None:
    page = _Page(report)
    scripts = [
        text
        for (_, has), text in zip(
            [one for one in page.elements if one[0] == "script"], page.texts.get("script", []), strict=True
        )
        if "type" not in has
    ]
    policy = next(str(has["content"]) for tag, has in page.elements if tag == "meta" and "http-equiv" in has)
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts) or "'none'"
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(f"script-src {allowed}")
    assert len(scripts) == (2 if page.figures else 0)
    assert page.text.count("* plotly.js v") == (1 if page.figures else 0)


def test_every_plot_has_a_place_and_something_in_it(report: Report) -> None:
    page = _Page(report)
    places = [str(has["id"]) for tag, has in page.elements if tag == "div" and "id" in has]
    assert sorted(places) == sorted(f"figure-{number}" for number in range(len(page.figures)))
    for figure in page.figures:
        measured = [value for trace in figure["data"] for value in trace["x"] if value is not None]
        assert measured


def test_a_file_makes_the_same_page(report: Report) -> None:
    assert page_of(report.to_dict()) == page_of(reports.values_of(report))


_FIRST, _LAST = ["Figures"], ["How it was measured"]


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("single", ["Over time", "Where an image's time goes", "Beside the bare engine"]),
        ("two scenarios", ["Latency", "Over time", "Where an image's time goes", "Beside the bare engine"]),
        ("sweep", ["Latency", "Over time", "Where an image's time goes", "Settings", "Beside the bare engine"]),
        (
            "comparison",
            ["Models in turn", "Beside the baseline", "Latency", "Over time", "Where an image's time goes",
             "Beside the bare engine", "Beside peers"],
        ),
        ("cameras", ["Latency", "Over time", "Where an image's time goes", "Beside the bare engine"]),
        (
            "found rate",
            ["Losing workers", "Latency", "Over time", "Where an image's time goes", "Beside the bare engine",
             "Rates tried"],
        ),
        ("partial", []),
        ("gpu sweep", ["Over time", "Where an image's time goes", "Settings", "Beside the bare engine"]),
    ],
)  # fmt: skip
def test_what_was_not_measured_has_no_section(name: str, sections: list[str]) -> None:
    assert _Page(reports.ALL[name]()).sections == [*_FIRST, *sections, *_LAST]


def test_a_report_of_nothing_says_so() -> None:
    page = _Page(reports.report())
    assert page.texts["h1"] == ["nothing was measured"]
    assert page.sections == _LAST
    assert len(page.text) < 20_000


# what it says first, and tables


def test_the_headline_names_the_figure_its_interval_and_whether_it_is_steady() -> None:
    report = reports.two_scenarios()
    page = _Page(report)
    offline = report.runs[1].scopes["e2e"].throughput
    assert offline is not None
    assert page.texts["h1"] == ["yolov8n.onnx"]
    card = next(text for text in page.texts["div"] if text.startswith("offline, e2e"))
    assert f"{offline.images_per_s:.1f} images/s" in card
    assert f"95% interval {offline.low:.1f} to {offline.high:.1f}" in card
    assert "steady: windows within" in card
    latency = report.runs[0].scopes["e2e"].latency_ms
    assert latency is not None
    card = next(text for text in page.texts["div"] if text.startswith("single-stream, e2e"))
    assert f"{latency.p50:.2f} ms at p50" in card
    assert f"p99 {latency.p99:.2f} ms" in card


def test_windows_that_disagree_are_not_steady() -> None:
    run = reports.run(reports.OFFLINE, drift=0.4)
    page = _Page(reports.report(run))
    assert any(text.startswith("not steady: windows up to ") for text in page.texts["p"])
    assert page.row("e2e")[2].endswith("~")
    assert any("windows disagree" in text for text in page.texts["p"])


def test_advice_is_in_the_order_of_the_report() -> None:
    report = reports.two_scenarios()
    assert [line.strip() for line in page_lines(report)] == list(report.advice)


def page_lines(report: Report) -> list[str]:
    return _Page(report).texts["li"]


def test_a_row_has_the_figures_of_its_scope() -> None:
    report = reports.two_scenarios()
    run = report.runs[0]
    ratio, figures = run.ratios["e2e/engine"], run.scopes["engine"]
    assert figures.latency_ms is not None
    row = _Page(report).row("engine")
    assert row[1] == f"{figures.images_per_s:.1f}"
    assert row[3] == f"{figures.latency_ms.p50:.2f}"
    assert row[7] == f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def test_percentiles_that_few_queries_exceed_are_marked() -> None:
    page = _Page(reports.two_scenarios())
    assert page.row("e2e")[6].endswith("?")
    assert not page.row("e2e")[5].endswith("?")
    assert any("? fewer than five queries" in text for text in page.texts["p"])


def test_peers_have_their_ratio() -> None:
    report = reports.comparison()
    ratio = report.runs[2].ratios["e2e/ultralytics"]
    assert f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" in _Page(report).row("peer ultralytics")


def test_comparisons_have_their_verdict() -> None:
    page = _Page(reports.comparison())
    assert page.row("yolov8n.onnx", "yolov8n-int8.onnx", "offline")[-1] == "SLOWER"
    assert page.row("yolov8n.onnx", "yolov8n.onnx")[-2:] == ["0.86 [0.83, 0.90]", "SLOWER"]
    assert any("python was 3.10.9, is 3.11.7" in text for text in page.texts["p"])


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (Ratio(ratio=0.8, low=0.7, high=0.9, windows=9), "SLOWER"),
        (Ratio(ratio=1.0, low=0.98, high=1.02, windows=9), "NOT SLOWER"),
        (Ratio(ratio=0.97, low=0.9, high=1.1, windows=9), "UNSURE"),
    ],
)
def test_the_head_says_what_came_of_the_baseline(ratio: Ratio, says: str) -> None:
    report = reports.comparison()
    assert report.baseline is not None
    one = dataclasses.replace(report.baseline.comparisons[0], ratio=ratio, verdict=ratio.verdict(0.05))
    baseline = dataclasses.replace(report.baseline, comparisons=(one,))
    page = _Page(dataclasses.replace(report, baseline=baseline))
    assert any(text.startswith(f"{says}than bench-0.1.json of 2026-06-30") for text in page.texts["p"])


def test_dropped_and_lost_images_are_shown() -> None:
    report = reports.cameras()
    e2e = report.runs[0].scopes["e2e"]
    assert f"{100 * e2e.drop_rate:.1f}%" in _Page(report).row("e2e")
    lost = dataclasses.replace(e2e, lost=7, cut=True)
    run = dataclasses.replace(report.runs[0], scopes={"e2e": lost})
    row = _Page(reports.report(run)).row("e2e CUT")
    assert row[-1] == "7"


def test_recovery_and_trials_are_tables() -> None:
    page = _Page(reports.found_rate())
    assert page.row("throughput lost [95% interval]")[1] == "11.0% [8.0%, 15.0%]"
    assert page.row("another is ready after")[1] == "412.0 ms"
    assert page.row("60.9") == ["60.9", "20.60", "no"]
    assert page.row("70.3") == ["70.3", "–", "no"]
    assert any(
        text.startswith("the highest rate that keeps p99 within 20 ms58.6 images/s")
        for text in page.texts["div"]
    )


def test_a_sweep_is_a_row_for_each_setting_with_the_best_marked() -> None:
    report = reports.sweep()
    page = _Page(report)
    best = [tuple(row[:3]) for row in page.rows if row[-1] == "most images/s"]
    assert best == [("4", "2", "1")]
    assert [tuple(row[:3]) for row in page.rows if row[-1] == "most within 16 ms"] == [("2", "2", "1")]
    assert any(text == "refused: batch 8: the model takes batches of 1 to 4" for text in page.texts["p"])


def test_an_interrupted_report_says_so_and_shows_what_there_is() -> None:
    page = _Page(reports.partial())
    assert any(text.startswith("PARTIALIt was interrupted") for text in page.texts["p"])
    assert page.row("infer")[1:] == ["–", "–", "0.90"]
    assert any("one window: no interval" in text for text in page.texts["p"])


def test_the_machine_and_the_command_stand_at_the_end() -> None:
    page = _Page(reports.single())
    assert page.row("command") == ["command", "trt-yolo bench engines/yolov8n.onnx --html report.html"]
    assert page.row("measured") == ["measured", "2026-07-14 09:30:00 UTC"]
    assert page.row("gpus 0 name") == ["gpus 0 name", "NVIDIA L4"]
    assert page.row("packages onnxruntime") == ["packages onnxruntime", "1.23.0"]
    assert page.row("notes") == ["notes", "the governor cannot be read"]
    assert "Machine" in page.texts["summary"]


# plots


def test_latencies_lie_where_their_percentiles_are() -> None:
    report = reports.two_scenarios()
    (figure,) = _Page(report).plots("Latency")
    figures = report.runs[0].scopes["infer"]
    assert figures.latency_ms is not None
    line = _trace(figure, "infer")
    assert line["line"]["color"] == _ORANGE
    assert line["x"][50] == pytest.approx(math.log10(2))
    assert line["x"][99] == pytest.approx(2.0)
    assert line["y"][:100] == pytest.approx(figures.quantiles_ms[:100], rel=1e-4)
    assert line["y"][100] == pytest.approx(figures.latency_ms.p99_9, rel=1e-4)
    ticks = dict(
        zip(figure["layout"]["xaxis"]["ticktext"], figure["layout"]["xaxis"]["tickvals"], strict=True)
    )
    assert ticks["99.9"] == pytest.approx(3.0)
    assert _names(figure) == ["e2e", "infer", "engine"]


def test_rings_mark_percentiles_that_few_queries_exceed() -> None:
    (figure,) = _Page(reports.two_scenarios()).plots("Latency")
    marks = next(trace for trace in figure["data"] if trace["mode"] == "markers" and trace["meta"] == "e2e")
    assert marks["marker"]["symbol"] == ["circle", "circle", "circle", "circle-open"]


@pytest.mark.parametrize(("name", "limit_ms"), [("found rate", 20.0), ("sweep", 16.0)])
def test_a_limit_is_a_line(name: str, limit_ms: float) -> None:
    figure = _Page(reports.ALL[name]()).plots("Latency")[0]
    assert _trace(figure, f"limit of p99, {limit_ms:g} ms")["y"] == [limit_ms, limit_ms]


def test_a_long_tail_is_on_a_logarithmic_axis() -> None:
    flat, wide = (
        _Page(reports.report(reports.run(reports.SINGLE_STREAM, tail=tail))).plots("Latency")[0]
        for tail in (0.1, 0.9)
    )
    assert flat["layout"]["yaxis"].get("type") != "log"
    assert wide["layout"]["yaxis"]["type"] == "log"


def test_windows_lie_at_their_times_with_the_band_of_their_mean() -> None:
    report = reports.single()
    figures = report.runs[0].scopes["engine"]
    assert figures.throughput is not None
    (figure,) = _Page(report).plots("Over time")
    band, line = [one for one in figure["data"] if one.get("meta") == "engine"]
    assert line["x"] == pytest.approx(figures.window_starts_s, rel=1e-4)
    assert line["y"] == pytest.approx(figures.throughput.windows, rel=1e-4)
    assert line["line"]["color"] == _GREEN
    assert band["fill"] == "toself"
    assert sorted(set(band["y"])) == pytest.approx(
        [figures.throughput.low, figures.throughput.high], rel=1e-4
    )
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < min(line["y"])
    assert max(line["y"]) < high


def test_loads_that_are_given_show_their_latency_over_time() -> None:
    report = reports.cameras()
    rate, latency = _Page(report).plots("Over time")
    assert _names(rate) == ["e2e", "infer", "engine"]
    assert _names(latency) == ["e2e"]
    assert _trace(latency, "e2e")["y"] == pytest.approx(
        report.runs[0].scopes["e2e"].latency_windows_ms, rel=1e-4
    )


def test_stages_fall_in_their_order_to_their_sum() -> None:
    report = reports.single()
    stages = report.runs[0].scopes["e2e"].stages_ms
    assert stages is not None
    (figure,) = _Page(report).plots("Where an image's time goes")
    (bars,) = figure["data"]
    assert bars["type"] == "waterfall"
    assert bars["y"] == ["decode", "letterbox", "wait", "copy in", "engine", "copy out", "post", "all"]
    assert bars["x"][:-1] == pytest.approx(list(dataclasses.astuple(stages)), rel=1e-4)
    assert bars["x"][-1] == pytest.approx(sum(dataclasses.astuple(stages)), rel=1e-4)
    assert bars["measure"] == ["relative"] * 7 + ["total"]


def test_stages_that_take_no_time_have_no_bar() -> None:
    run = reports.single().runs[0]
    stages = run.scopes["e2e"].stages_ms
    assert stages is not None
    e2e = dataclasses.replace(
        run.scopes["e2e"], stages_ms=dataclasses.replace(stages, copy_in=0.0, copy_out=0.0)
    )
    (figure,) = _Page(reports.report(dataclasses.replace(run, scopes={"e2e": e2e}))).plots("Where")
    assert figure["data"][0]["y"] == ["decode", "letterbox", "wait", "engine", "post", "all"]


def test_a_sweep_has_a_line_for_each_combination() -> None:
    report = reports.sweep()
    throughput, trade = _Page(report).plots("Settings")
    assert _names(throughput) == [
        "1 worker",
        "2 workers",
        "most within 16 ms",
        "most images/s",
    ]  # not the threads
    line = _trace(throughput, "2 workers")
    assert line["x"] == ["1", "2", "4"]
    measured = [run.scopes["e2e"].throughput for run in report.runs[7::2]]
    assert line["y"] == pytest.approx([one.images_per_s for one in measured if one], rel=1e-4)
    assert line["error_y"]["array"] == pytest.approx(
        [one.high - one.images_per_s for one in measured if one], rel=0.02
    )
    best = next(trace for trace in throughput["data"] if trace["name"] == "most images/s")
    assert (best["x"], best["y"]) == (["4"], [line["y"][2]])
    timed = [run.scopes["e2e"].latency_ms for run in report.runs[6::2]]
    points = next(trace for trace in trade["data"] if trace["name"] == "2 workers")
    assert points["y"] == pytest.approx([one.p99 for one in timed if one], rel=1e-4)
    assert points["x"] == line["y"]


def test_streams_of_engines_make_the_lines_where_they_vary() -> None:
    (figure,) = _Page(reports.gpu_sweep()).plots("Settings")
    assert _names(figure) == ["1 stream", "2 streams", "most images/s"]


def test_models_alone_make_no_sweep() -> None:
    assert _Page(reports.comparison()).plots("Settings") == []


def test_models_with_and_without_streams_share_a_sweep() -> None:
    runs = [
        reports.run(reports.OFFLINE, of=reports.model(name), at=reports.setting(streams=streams))
        for name, streams in (("a.onnx", None), ("b.engine", 1), ("b.engine", 2))
    ]
    (figure,) = _Page(reports.report(*runs)).plots("Settings")
    assert _names(figure) == ["a.onnx", "b.engine"]


def test_efficiency_is_the_ratio_to_the_engine_with_its_interval() -> None:
    report = reports.two_scenarios()
    (figure,) = _Page(report).plots("Beside the bare engine")
    for scope, colour in (("e2e", _BLUE), ("infer", _ORANGE)):
        dots = next(one for one in figure["data"] if one["name"] == f"{scope} / engine")
        ratios = [run.ratios[f"{scope}/engine"] for run in report.runs]
        assert dots["x"] == pytest.approx([one.ratio for one in ratios], rel=1e-4)
        assert dots["error_x"]["array"] == pytest.approx([one.high - one.ratio for one in ratios], abs=1e-4)
        assert dots["error_x"]["arrayminus"] == pytest.approx(
            [one.ratio - one.low for one in ratios], abs=1e-4
        )
        assert dots["marker"]["color"] == colour


def test_a_given_load_is_no_efficiency() -> None:
    (figure,) = _Page(reports.found_rate()).plots("Beside the bare engine")
    assert _names(figure) == ["bare engine", "infer / engine"]


def test_ratios_of_too_few_windows_have_no_bar() -> None:
    run = reports.single().runs[0]
    unknown = Ratio(ratio=0.9, low=0.0, high=math.inf, windows=2)
    ratios = {"e2e/engine": unknown, "e2e/openvino": unknown}
    run = dataclasses.replace(run, ratios=ratios, peers={"openvino": run.scopes["engine"]})
    page = _Page(reports.report(run))
    for section in ("Beside the bare engine", "Beside peers"):
        (figure,) = page.plots(section)
        dots = figure["data"][1]
        assert dots["x"] == [0.9]
        assert dots["error_x"]["array"] == [None]


def test_rates_that_were_tried_stand_beside_their_p99() -> None:
    report = reports.found_rate()
    (figure,) = _Page(report).plots("Rates tried")
    held = next(one for one in figure["data"] if one["name"] == "held")
    assert (held["x"], held["y"]) == ([37.5, 56.2, 58.6], [16.9, 18.4, 19.7])
    assert next(one for one in figure["data"] if one["name"] == "not held")["x"] == [65.6, 60.9]
    assert _trace(figure, "found: 58.6 images/s")["x"] == [58.6, 58.6]


# what must not happen


def test_nothing_of_a_report_becomes_part_of_the_page() -> None:
    evil, plain = _Page(reports.hostile()), _Page(_plain_twin(reports.hostile()))
    assert Counter(tag for tag, _ in evil.elements) == Counter(tag for tag, _ in plain.elements)
    seen = reports.HOSTILE.translate({10: " ", 27: " ", 0xDCFF: " "})
    assert seen in evil.texts["h1"][0]
    assert any(seen in line for line in evil.texts["li"])
    (data,) = [text for text in evil.texts["script"] if text.startswith("[{")]
    assert "<" not in data
    evil.text.encode()


def _plain_twin(report: Report) -> dict[str, Any]:
    """The same report under names that need no care, as long and as many."""
    text = json.dumps(report.to_dict())
    return json.loads(text.replace(json.dumps(reports.HOSTILE)[1:-1], "plain"))


def test_plotly_shows_names_as_text_and_not_as_tags() -> None:
    (figure,) = _Page(reports.hostile()).plots("Beside peers")
    (row,) = figure["layout"]["annotations"]
    assert "&lt;b&gt;" in row["text"]
    assert "<" not in row["text"]


@pytest.mark.parametrize("change", [{"schema": 2}, {"tool": "yolo benchmark"}, {"schema": None}])
def test_another_result_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no result of trt-yolo bench with schema 1") as caught:
        page_of(reports.values_of(reports.single()) | change)
    assert "\n" not in str(caught.value)


def test_without_plotly_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trt-yolo\[report\]'") as caught:
        page_of(reports.values_of(reports.single()))
    assert "\n" not in str(caught.value)


def test_looking_at_the_module_loads_no_plotly() -> None:
    code = "import sys, trt_yolo.bench.page; assert 'plotly' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Chromium


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    """A browser for all pages."""
    with browser.started(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def _shown(chromium: browser.Browser, report: Report, folder: Path, **size: Any) -> int:
    """Opens the page of a report; how many plots it should have."""
    text = page_of(report.to_dict())
    page = folder / "report.html"
    page.write_text(text, encoding="utf-8")
    chromium.open(page, **size)
    return text.count('<div id="figure-')


_DRAWN = """
[...document.querySelectorAll("figure > div")].filter(place =>
  place.querySelector(".main-svg .cartesianlayer .point")).length
"""


@pytest.mark.slow
def test_a_page_opens_without_an_error_or_a_request(
    chromium: browser.Browser, report: Report, tmp_path: Path
) -> None:
    plots = _shown(chromium, report, tmp_path)
    assert chromium.errors == []
    assert chromium.requests == []
    assert chromium.value(_DRAWN) == plots


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1200])
def test_a_page_is_as_wide_as_its_window(chromium: browser.Browser, tmp_path: Path, width: int) -> None:
    _shown(chromium, reports.comparison(), tmp_path, width=width)
    assert chromium.value("document.documentElement.scrollWidth") == width
    widths = chromium.value(
        '[...document.querySelectorAll(".main-svg")].map(one => one.getBoundingClientRect().right)'
    )
    assert max(widths) <= width


@pytest.mark.slow
def test_text_in_plots_follows_the_colours_of_the_system(chromium: browser.Browser, tmp_path: Path) -> None:
    colour = 'getComputedStyle(document.querySelector(".xtick text")).fill'
    _shown(chromium, reports.single(), tmp_path, is_dark=True)
    assert chromium.value(colour) == "rgb(230, 232, 235)"
    chromium.show(width=1200, height=900)
    chromium.value("new Promise(done => setTimeout(done, 300))")
    assert chromium.value(colour) == "rgb(28, 30, 33)"
    assert chromium.errors == []


@pytest.mark.slow
def test_hostile_names_are_read_and_not_run(chromium: browser.Browser, tmp_path: Path) -> None:
    _shown(chromium, reports.hostile(), tmp_path)
    rows = chromium.value('[...document.querySelectorAll(".annotation-text")].map(one => one.textContent)')
    assert any("(2)>\"'&%{x}<b>$\\frac{a}{b}$" in row.replace("\u00a0", " ") for row in rows)
    assert chromium.value('document.querySelectorAll("img, .annotation-text a, .legendtext a").length') == 0
    assert chromium.errors == []


@pytest.mark.slow
def test_the_browser_notices_errors_and_requests(chromium: browser.Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<img src="http://127.0.0.1:9/none.png"><script>console.error(1); undefined_name</script>'
    )
    chromium.open(page)
    assert chromium.requests == ["http://127.0.0.1:9/none.png"]
    assert any("undefined_name" in error for error in chromium.errors)
    assert len(chromium.errors) >= 2
