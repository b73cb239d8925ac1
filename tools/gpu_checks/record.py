"""What a check found: rows by part, as one JSON file that is whole at every moment.

Enters: rows. Leaves: plain values, and a file. Knows neither GPUs nor how anything is measured.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

TOOL = "trt-yolo gpu_check"
SCHEMA = 1
_DIGITS = 4

State = Literal["ok", "missed", "failed", "absent", "info"]
"""Of a row: held; a goal not reached; did not work; could not be tried here; says something."""

Ending = Literal["done", "failed", "crashed", "out of time", "interrupted", "not run"]


class NoRecordError(Exception):
    """A file that is no record of this schema; the text says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that was found.

    Attributes:
        name: What.
        state: What it means.
        value: A number, or words; None where there is none.
        unit: Of the number.
        low: Lower end of its 95% interval, where one was measured.
        high: Its upper end.
        goal: What it should be, such as `>= 0.95`; empty where nobody said.
        note: How it was measured, or what went wrong; one line.
    """

    name: str
    state: State = "info"
    value: float | str | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    goal: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; numbers rounded to what was measured."""
        fields = dataclasses.asdict(self) | {"note": " ".join(self.note.split())[:400]}
        return {key: _plain(value) for key, value in fields.items()}


@dataclass(kw_only=True)
class Part:
    """A part of the check.

    Attributes:
        name: Which.
        ending: How it ended.
        seconds: How long it took.
        rows: What it found, in order.
        error: Why it did not end well, on one line; empty where it did.
    """

    name: str
    ending: Ending = "not run"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    error: str = ""

    @property
    def is_good(self) -> bool:
        """Whether all that it tried worked; a goal that was missed is another matter."""
        return self.ending == "done" and not any(row.state == "failed" for row in self.rows)


@dataclass(kw_only=True)
class Record:
    """All of a check.

    Attributes:
        created: Date and time, ISO 8601, UTC.
        version: trt-yolo's.
        revision: Git's, shortened; empty outside a checkout.
        command: The arguments.
        rehearsal: Whether no GPU was used: what is measured then says nothing of one.
        model: What was measured.
        device: The GPU's name; of a rehearsal the processor's.
        machine: What it ran on, as `trt_yolo.bench.machine` has it.
        parts: Each part.
        partial: Whether something is missing.
    """

    created: str
    version: str
    revision: str
    command: str
    rehearsal: bool
    model: str
    device: str
    machine: Mapping[str, Any]
    parts: list[Part]
    partial: bool = True

    @property
    def rows(self) -> list[tuple[str, Row]]:
        """Every row, with its part."""
        return [(part.name, row) for part in self.parts for row in part.rows]

    def row(self, part: str, name: str) -> Row | None:
        """The row of that name, if it is there."""
        return next((row for where, row in self.rows if (where, row.name) == (part, name)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        parts = [
            {
                "name": part.name, "ending": part.ending, "seconds": round(part.seconds, 1),
                "error": part.error, "rows": [row.to_dict() for row in part.rows],
            }
            for part in self.parts
        ]  # fmt: skip
        return {"tool": TOOL, "schema": SCHEMA, **fields, "parts": parts}

    def write(self, path: Path) -> None:
        """Writes it in one step: whoever reads sees the old file or the new one."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)


def record_from_file(path: Path) -> Record:
    """What `Record.write` wrote.

    Raises:
        NoRecordError: It is none, or one of another schema.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("tool") != TOOL:
            raise NoRecordError(f"{path} is no result of tools/gpu_check; leave only those in its folder")
        if (schema := fields.pop("schema")) != SCHEMA:
            raise NoRecordError(
                f"{path} has schema {schema}, this trt-yolo reads {SCHEMA}; run tools/gpu_check again"
            )
        parts = [
            Part(**{**part, "rows": [Row(**row) for row in part["rows"]]}) for part in fields.pop("parts")
        ]
        return Record(**fields, parts=parts)
    except OSError as error:
        raise NoRecordError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoRecordError(f"{path} is damaged ({error}); run tools/gpu_check again") from error


def goal_row(
    name: str, value: float | None, goal: str, *, unit: str = "", low: float | None = None,
    high: float | None = None, note: str = "", counts: bool = True,
) -> Row:  # fmt: skip
    """A row that a goal is held against.

    Args:
        name: What.
        value: What was measured; None: nothing could be.
        goal: `>= 0.95` or `<= 60`.
        unit: Of the number.
        low: Lower end of its interval.
        high: Its upper end.
        note: How it was measured.
        counts: Whether the goal is for this machine; else the row only says what was measured.
    """
    if value is None or not math.isfinite(value):
        return Row(name=name, state="absent", unit=unit, goal=goal, note=note)
    sign, _, wanted = goal.partition(" ")
    held = value >= float(wanted) if sign == ">=" else value <= float(wanted)
    state: State = "info" if not counts else "ok" if held else "missed"
    return Row(name=name, state=state, value=value, unit=unit, low=low, high=high, goal=goal, note=note)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
