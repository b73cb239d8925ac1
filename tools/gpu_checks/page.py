"""The record as one HTML page that asks the network for nothing and runs no script."""

from __future__ import annotations

import html

from gpu_checks.record import Part, Record
from gpu_checks.table import WORDS, figure_text, goal_text, heading, value_text
from trt_yolo.bench.page_parts import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MARKS = {"ok": "good", "missed": "bad", "failed": "bad", "absent": "quiet", "info": ""}


def page_from_record(record: Record) -> str:
    """The page's text."""
    title = html.escape(heading(record))
    parts = "\n".join(_part(part) for part in record.parts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title><style>{STYLE}</style></head><body>
<header><p class="over">trt-yolo gpu_check, {html.escape(record.created)}</p><h1>{title}</h1>
{_warning(record)}</header>
<div class="cards">{_cards(record)}</div>
{parts}
<h2>Machine</h2>{_machine(record)}
</body></html>
"""


def _warning(record: Record) -> str:
    said = []
    if record.rehearsal:
        said.append("No GPU was used: this shows that the check runs, and nothing about a GPU.")
    if record.partial:
        said.append("It was cut short, or a part failed: what is here was found until then.")
    return "".join(f'<p><span class="badge bad">note</span>{html.escape(one)}</p>' for one in said)


def _cards(record: Record) -> str:
    """The figures that have a goal."""
    return "".join(
        f'<div class="card"><h3>{html.escape(row.name)}</h3><p class="figure">{html.escape(figure_text(row))}</p>'
        f'<p class="{_MARKS[row.state]}">{html.escape(goal_text(row))}</p></div>'
        for part, row in record.rows
        if row.goal and part == "bench"
    )


def _part(part: Part) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(row.name)}</td><td class="scope {_MARKS[row.state]}">{WORDS[row.state]}</td>'
        f'<td class="scope">{html.escape(value_text(row))}</td>'
        f"<td>{html.escape(row.note)}</td></tr>"
        for row in part.rows
    )
    error = f'<p class="bad">{html.escape(part.error)}</p>' if part.error else ""
    table = (
        f'<div class="scroll"><table><tr><th>what</th><th>is</th><th>value</th><th>how</th></tr>{rows}</table></div>'
        if rows
        else ""
    )
    return f"<h2>{html.escape(part.name)}: {part.ending}, {part.seconds:.0f} s</h2>{error}{table}"


def _machine(record: Record) -> str:
    machine = record.machine
    facts = {
        key: machine.get(key)
        for key in ("cpu", "system", "python", "driver", "cuda", "providers", "packages")
    }
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(_words(value))}</td></tr>"
        for key, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>'


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "nobody says" if value is None else str(value)
