"""One HTML page of a bench: its main figures, what follows from them, tables, plots, and what it ran on.

Enters: what `Report.to_dict` gives, also from a file of JSON. Leaves: the page's text, plotly.js in it, which asks
the network for nothing. What comes from the report is escaped, and the page forbids every script but its own two, by
their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trt_yolo.bench.cells import (
    best_in,
    interval_of,
    is_open,
    labels_of,
    load_of,
    main_figures,
    model_of,
    model_text,
    moment_text,
    ms_text,
    percent_text,
    printable,
    rate_interval_text,
    rate_text,
    ratio_text,
    run_title,
    setting_words,
)
from trt_yolo.bench.page_parts import SCRIPT, STYLE
from trt_yolo.bench.page_tables import (
    Markup,
    badge,
    compared_table,
    everything_table,
    facts,
    recovery_table,
    runs_table,
    text,
    trials_table,
)
from trt_yolo.bench.report import SCHEMA, TOOL
from trt_yolo.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from trt_yolo.bench.plot_parts import Plot

_MOST_CARDS = 8
_NOTES = {
    "Latency": "What so many percent of the queries took at most; the axis is stretched towards the slow ones. "
    "Rings: fewer than five queries took longer.",
    "Over time": "Each window's own; the band is the 95% interval of the windows' mean.",
    "Where an image's time goes": "In e2e, mean of an image: engine and copies are those of its whole batch.",
    "Settings": "Bars are 95% intervals.",
    "Beside the bare engine": "Measured in turn, window by window; bars are 95% intervals. 1 is what the engine "
    "does when nothing else is there.",
    "Beside peers": "How many times as fast files to detections are; bars are 95% intervals.",
    "Rates tried": "Images at random moments; latency from when each was due.",
}

_NO_PLOTLY = "a page with plots needs the package plotly: pip install 'trt-yolo[report]'"


def page_of(report: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: What `Report.to_dict` gives, or what was read from the JSON of it.

    Raises:
        InputError: It is no result of a bench, or one of another schema.
        MissingDependencyError: plotly is not installed.
    """
    if report.get("tool") != TOOL or report.get("schema") != SCHEMA:
        raise InputError(
            f"no result of {TOOL} with schema {SCHEMA}: tool {report.get('tool')!r}, schema {report.get('schema')!r}; "
            "give the JSON that this version writes with --json"
        )
    plotly_js, plots = _drawn(report)
    body = [_head(report), _advice(report), *_sections(report), *_plots(plots), _about(report)]
    return _document(f"{TOOL}: {_models(report)}", body, plotly_js, [plot.figure for plot in plots])


def check_plots() -> None:
    """Raises MissingDependencyError where nothing can draw: before anything is measured."""
    if importlib.util.find_spec("plotly") is None:
        raise MissingDependencyError(_NO_PLOTLY)


def _drawn(report: Mapping[str, Any]) -> tuple[str, list[Plot]]:
    """plotly.js, and what it has to draw."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingDependencyError(_NO_PLOTLY) from error
    from trt_yolo.bench.plots import plots_of

    return str(get_plotlyjs()), list(plots_of(report))


def _document(title: str, body: Iterable[str], plotly_js: str, figures: Sequence[Mapping[str, Any]]) -> str:
    """Everything in one file. Figures are data and never run; JSON keeps their text from ending the element."""
    scripts = [plotly_js, SCRIPT] if figures else []
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}"
    data = json.dumps(figures, separators=(",", ":")).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
            f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *(part for part in body if part),
            *([f'<script type="application/json" id="figures">{data}</script>'] if figures else []),
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# what it says first


def _head(report: Mapping[str, Any]) -> str:
    runs = report["runs"]
    loads = ", ".join(dict.fromkeys(load_of(run) for run in runs))
    settings = dict.fromkeys(", ".join(setting_words(run["setting"])) for run in runs)
    layout = next(iter(settings), "") if len(settings) <= 1 else f"{len(settings)} settings"
    over = f"{TOOL} {report['version']}, {moment_text(report['created'])}"
    lines = "".join(
        f'<p class="quiet">{text(line)}</p>' for line in (*_model_lines(report), f"{loads}; {layout}")
    )
    return (
        f'<header><p class="over">{text(over)}</p>\n<h1>{text(_models(report))}</h1>\n'
        f"{lines if runs else ''}{''.join(_badges(report))}</header>\n"
        f'<div class="cards">{"".join(_cards(report))}</div>'
    )


def _models(report: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(model_of(run) for run in report["runs"])) or "nothing was measured"


def _model_lines(report: Mapping[str, Any]) -> list[str]:
    """What the models are; of a single one without its name, which stands above."""
    models = {model_of(run): run["model"] for run in report["runs"]}
    if len(models) == 1:
        return [model_text(model) for model in models.values()]
    return [f"{name}: {model_text(model)}" for name, model in models.items()]


def _badges(report: Mapping[str, Any]) -> Iterator[str]:
    if report["partial"]:
        yield f"<p>{badge('PARTIAL', 'bad')}It was interrupted; this was measured until then.</p>"
    baseline = report.get("baseline")
    if baseline is not None:
        unsure = any(one["verdict"] == "UNSURE" for one in baseline["comparisons"])
        word, kind = ("UNSURE", "quiet") if unsure else ("NOT SLOWER", "good")
        word, kind = ("SLOWER", "bad") if baseline["regressed"] else (word, kind)
        yield f"<p>{badge(word, kind)}than {text(baseline['path'])} of {text(moment_text(baseline['created']))}</p>"


class _Card(NamedTuple):
    """One of the main figures: of what, the figure, its unit, and what belongs to it."""

    of: str
    scope: str
    figure: str
    unit: str
    lines: Sequence[str]


def _cards(report: Mapping[str, Any]) -> Iterator[str]:
    for card in list(_main(report))[:_MOST_CARDS]:
        lines = "".join(
            line if isinstance(line, Markup) else f"<p>{text(line)}</p>" for line in card.lines if line
        )
        yield (
            f'<div class="card {card.scope}"><h3>{text(card.of)}</h3>'
            f'<p class="figure">{text(card.figure)} <small>{text(card.unit)}</small></p>{lines}</div>\n'
        )


def _main(report: Mapping[str, Any]) -> Iterator[_Card]:
    runs, best = report["runs"], report.get("best")
    if best is not None:
        chosen = dict.fromkeys(best[name] for name in ("throughput", "latency") if best.get(name) is not None)
        for index in chosen:
            run = runs[index]
            of = f"{' and '.join(best_in(run, report))}: {', '.join(setting_words(run['setting']))}"
            yield from _card(run, of)
        return
    yield from (_rate_card(run["find_rate"]) for run in runs if run.get("find_rate"))
    for run, words in zip(runs, labels_of(runs), strict=True):
        yield from _card(run, words or load_of(run))


def _rate_card(found: Mapping[str, Any]) -> _Card:
    of = f"the highest rate that keeps p99 within {found['limit_ms']:g} ms"
    tried = f"{len(found['trials'])} rates tried"
    return _Card(
        of, "e2e", rate_text(found["rate"]), "images/s" if found["rate"] is not None else "none does", [tried]
    )


def _card(run: Mapping[str, Any], of: str) -> Iterator[_Card]:
    """The figure of the widest scope: what its load is there to show, latency or throughput."""
    figures = main_figures(run)
    if figures is None:
        return
    scope = next(iter(run["scopes"]))
    throughput, latency = figures["throughput"], figures["latency_ms"]
    rate = rate_text(throughput["images_per_s"]) if throughput is not None else ""
    of = f"{of}, {scope}"
    if latency is None:
        yield _Card(of, scope, rate or rate_text(None), "images/s", [*_trust(figures), _engine_share(run)])
        return
    first, second = ("p99", "p50") if is_open(run) else ("p50", "p99")
    lines = [f"{second} {ms_text(latency[second])} ms, {rate} images/s", *_trust(figures)]
    if figures["dropped"]:
        lines.append(f"{percent_text(figures['drop_rate'])} of {figures['offered']:,} frames dropped")
    yield _Card(of, scope, ms_text(latency[first]), f"ms at {first}", lines)


def _trust(figures: Mapping[str, Any]) -> Iterator[str]:
    """The interval of the throughput, and whether its windows agree; not of loads whose throughput is given."""
    throughput = figures["throughput"]
    if throughput is None or figures["latency_windows_ms"]:
        return
    if interval_of(throughput) is not None:
        yield f"95% interval {rate_interval_text(throughput)}"
    far = percent_text(throughput["spread"])
    if len(throughput["windows"]) < 2:
        yield "one window: no interval"
    elif throughput["steady"]:
        yield Markup(f'<p class="good">steady: windows within {far}</p>')
    else:
        yield Markup(f'<p class="bad">not steady: windows up to {far} off</p>')


def _engine_share(run: Mapping[str, Any]) -> str:
    ratio = run["ratios"].get("e2e/engine")
    return f"{ratio_text(ratio)} of the bare engine" if ratio is not None else ""


def _advice(report: Mapping[str, Any]) -> str:
    lines = "".join(f"<li>{text(line)}</li>\n" for line in report["advice"])
    return f'<ul class="advice">{lines}</ul>' if lines else ""


# what it says then


def _sections(report: Mapping[str, Any]) -> Iterator[str]:
    """The tables, each under its heading; those of what was not measured are left out."""
    refused = "".join(
        f'<p class="note">refused: {text(line)}</p>' for line in dict.fromkeys(report["refused"])
    )
    yield _section("Figures", runs_table(report) + refused)
    yield _section("Models in turn", compared_table(report["comparisons"]) if report["comparisons"] else "")
    baseline = report.get("baseline")
    if baseline is not None:
        notes = "".join(f'<p class="note">besides: {text(note)}</p>' for note in baseline["notes"])
        tolerance = (
            f'<p class="note">Differences up to {percent_text(baseline["tolerance"])} are tolerated.</p>'
        )
        yield _section(
            "Beside the baseline",
            compared_table(baseline["comparisons"], one="now", other="then") + tolerance + notes,
        )
    for run in report["runs"]:
        if run.get("recovery"):
            yield _section("Losing workers", recovery_table(run["recovery"]))


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{text(title)}</h2>\n{inside}</section>" if inside else ""


def _plots(plots: Sequence[Plot]) -> Iterator[str]:
    """A place for each plot, under the headings."""
    for section in dict.fromkeys(plot.section for plot in plots):
        inside = "".join(_place(plot, at) for at, plot in enumerate(plots) if plot.section == section)
        note = f'<p class="note">{text(_NOTES[section])}</p>'
        yield _section(section, f'{note}\n<div class="plots">{inside}</div>')
    if plots:
        yield '<noscript><p class="note">The plots need JavaScript; the figures are in the tables.</p></noscript>'


def _place(plot: Plot, number: int) -> str:
    title = f"<h3>{text(plot.title)}</h3>" if plot.title else ""
    height = plot.figure["layout"]["height"]
    what = text(f"{plot.section} {plot.title}")
    return (
        f'<figure>{title}<div id="figure-{number}" style="height:{height}px" role="img" aria-label="{what}"></div>'
        "</figure>\n"
    )


def _about(report: Mapping[str, Any]) -> str:
    """Folded: everything that was measured, and on what."""
    yardstick = report["yardstick"]
    rows = [
        ("command", Markup(f"<code>{text(report['command'])}</code>")),
        ("measured", moment_text(report["created"])),
        ("trt-yolo", f"{report['version']}, schema {report['schema']}"),
        ("images", f"{report['images']}, {printable(report['data'])}"),
        ("seed", report["seed"]),
        ("yardstick", _yardstick(yardstick) if yardstick else ""),
        *_models_in_full(report),
    ]
    trials = "".join(
        _folded(f"Rates tried: {run_title(run)}", trials_table(run["find_rate"]))
        for run in report["runs"]
        if run.get("find_rate")
    )
    everything = everything_table(report) if report["runs"] else ""
    machine = facts(_entries(report["machine"])) if report["machine"] else ""
    return (
        f"<section><h2>How it was measured</h2>\n{facts(rows)}\n{trials}"
        f"{_folded('All figures', everything)}{_folded('Machine', machine)}</section>"
    )


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{text(title)}</summary>{inside}</details>\n" if inside else ""


def _yardstick(rates: Sequence[float]) -> str:
    middle = statistics.median(rates)
    return f"the machine itself did {middle:.4g} pieces of fixed work a second, {min(rates):.4g} to {max(rates):.4g}"


def _models_in_full(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    models = {model_of(run): run["model"] for run in report["runs"]}
    for name, model in models.items():
        parts = [name, model["path"], f"{model['graph']} graph"]
        if model["map50_95_before"] is not None:
            parts.append(f"mAP50-95 {model['map50_95_before']:.4f} before")
        parts += [f"judged by {model['judged_by']}"] if model["judged_by"] else []
        parts += [f"sha256 {model['sha256']}"] if model["sha256"] else []
        yield "model", ", ".join(printable(part) for part in parts if part)


def _entries(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Everything that says something, what lies inside one level deeper with its place before it."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _entries(value, f"{prefix}{key} ")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            for number, one in enumerate(value):
                yield from _entries(
                    one if isinstance(one, Mapping) else {"": one}, f"{prefix}{key} {number} "
                )
        elif value not in ("", None, [], ()):
            yield (
                f"{prefix}{key}",
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value),
            )
