"""The rows as one table on a terminal."""

from __future__ import annotations

from gpu_checks.record import Record, Row
from trt_yolo.cli.render import print_table

WORDS = {"ok": "ok", "missed": "MISSED", "failed": "FAILED", "absent": "not here", "info": ""}


def show(record: Record) -> None:
    """Prints it."""
    rows = []
    for part in record.parts:
        if part.ending != "done":
            rows.append(
                [part.name, part.ending, "FAILED" if part.ending != "not run" else "", "", part.error]
            )
        rows += [[part.name, row.name, WORDS[row.state], value_text(row), row.note] for row in part.rows]
    print_table(heading(record), ["part", "what", "is", "value", "how"], rows)


def heading(record: Record) -> str:
    """What was checked, in a line."""
    kind = "NO GPU: a rehearsal on " if record.rehearsal else ""
    partial = ", partial" if record.partial else ""
    return (
        f"{kind}{record.device}, {record.model}, trt-yolo {record.version} {record.revision}{partial}".strip()
    )


def value_text(row: Row) -> str:
    """Value, unit, interval and goal."""
    goal = f"({row.goal})" if row.goal else ""
    return " ".join(one for one in (figure_text(row), interval_text(row), goal) if one)


def figure_text(row: Row) -> str:
    """Value and unit."""
    if row.value is None:
        return ""
    number = row.value if isinstance(row.value, str) else number_text(row.value)
    return f"{number} {row.unit}".strip()


def interval_text(row: Row) -> str:
    """The interval, where there is one."""
    if row.value is None or row.low is None or row.high is None:
        return ""
    return f"[{number_text(row.low)}, {number_text(row.high)}]"


def goal_text(row: Row) -> str:
    """Interval, goal, and whether it is reached."""
    return ", ".join(one for one in (interval_text(row), f"goal {row.goal}", WORDS[row.state]) if one)


def number_text(value: float | None) -> str:
    """With as many digits as say something."""
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
