"""Rows of `tools/gpu_report`, kept as soon as they are known: a step that is cut short keeps what it found.

Also a plugin of pytest (`-p gpu_rows`): a row for each test that ran or failed. Knows no GPU.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

import pytest

VARIABLE = "GPU_REPORT_ROWS"  # the file that rows are appended to
State = Literal["ok", "failed", "absent", "info"]
Row = dict[str, Any]


def add(name: str, *, state: State = "info", value: Any = None, unit: str = "", note: str = "") -> None:
    """Keeps a row.

    Args:
        name: What.
        state: It holds; it does not; it could not be tried here; it says something.
        value: A number or words.
        unit: Of the number.
        note: How it was measured, or what went wrong.
    """
    if isinstance(value, float):
        value = float(f"{value:.4g}") if math.isfinite(value) else None
    row = {"name": name, "state": state, "value": value, "unit": unit, "note": " ".join(note.split())[:400]}
    with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a file; a line that was cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A row for a test's end."""
    if VARIABLE not in os.environ or (report.when != "call" and report.passed):
        return
    name = report.nodeid.rpartition("/")[2]
    known = ", ".join(f"{key} {value}" for key, value in report.user_properties)
    if report.failed:
        lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
        add(
            name,
            state="failed",
            note=" ".join(line[1:].strip() for line in lines) or str(report.longrepr)[-400:],
        )
    elif report.skipped:
        add(name, state="absent", note=str(report.longrepr[2] if isinstance(report.longrepr, tuple) else ""))
    else:
        add(name, state="ok", value=report.duration, unit="s", note=known)
