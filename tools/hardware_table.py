"""The table of hardware in docs/measured.md, out of the results of `tools/gpu_report` under `tools/results`.

python tools/hardware_table.py            # writes it
python tools/hardware_table.py --check    # exit code 1 if the page has another one
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "tools" / "results"
PAGE = ROOT / "docs" / "measured.md"
BEGIN = "<!-- hardware table: made by tools/hardware_table.py -->"
END = "<!-- end of hardware table -->"
TOOL, SCHEMA = "trt-yolo gpu_report", 1

_COLUMNS = (
    "device",
    "software",
    "runtime / bare engine",
    "latency added, batch 1",
    "images/s: slots, JPEG files",
    "checks",
)
_PACKAGES = ("tensorrt", "tensorrt-rtx-cu13", "onnxruntime-gpu", "cuda-bindings")

Record = dict[str, Any]


class NoRecordError(Exception):
    """A file that is no result, or a page without marks; the text says what to do."""


def main(arguments: Sequence[str]) -> int:
    """The command: 0, or 1 with a line that says what is wrong."""
    unknown = [one for one in arguments if one != "--check"]
    if unknown:
        sys.stderr.write(f"error: {unknown[0]} is no option; give --check, or nothing\n")
        return 1
    try:
        text = PAGE.read_text(encoding="utf-8")
        wanted = with_table(text, records(RESULTS))
    except (NoRecordError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if "--check" in arguments:
        if text != wanted:
            sys.stderr.write(
                "error: the hardware table of docs/measured.md is old; run python tools/hardware_table.py\n"
            )
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


def records(folder: Path) -> list[Record]:
    """Those in a folder, the newest first.

    Raises:
        NoRecordError: A file there is none.
    """
    found = [_record(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda one: str(one["created"]), reverse=True)


def _record(path: Path) -> Record:
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if (record["tool"], record["schema"]) != (TOOL, SCHEMA):
            raise NoRecordError(f"{path} is no result of tools/gpu_report; leave only those in its folder")
        _cells(record)
        return record
    except OSError as error:
        raise NoRecordError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise NoRecordError(f"{path} is damaged ({error}); run tools/gpu_report again") from error


def with_table(text: str, found: Sequence[Record]) -> str:
    """The page with that table between its marks.

    Raises:
        NoRecordError: It has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoRecordError(f"docs/measured.md has no marks for the table; put back {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


def table(found: Sequence[Record]) -> str:
    """The records as a table in Markdown."""
    if not found:
        return "**No result of a GPU yet.**"
    return "\n".join([_row(_COLUMNS), _row(["---"] * len(_COLUMNS)), *(_row(_cells(one)) for one in found)])


def _cells(record: Record) -> list[str]:
    machine, rows = record["machine"], [row for step in record["steps"] for row in step["rows"]]
    versions = {one["package"]: one["version"] for one in machine["packages"]}
    packages = ", ".join(f"{name} {versions[name]}" for name in _PACKAGES if versions.get(name))
    software = (
        f"{record['created'][:10]}, trt-yolo {record['version']} {record['revision']}; "
        f"driver {machine['driver'] or '?'}, CUDA {machine['cuda']}; {packages}"
    )
    rates = [_best(rows, ": infer"), _best(rows, ": e2e")]
    return [
        f"{record['device']} ({machine['gpus'][0]['compute_capability']})",
        software,
        _best(rows, ": infer/engine"),
        _best(rows, "added to the bare engine, p50", unit=" ms"),
        " / ".join(rates),
        _checks(record),
    ]


def _best(rows: Sequence[Record], end: str, unit: str = "") -> str:
    """The largest figure among the rows whose name ends so, with what was measured."""
    found = [row for row in rows if row["name"].endswith(end) and isinstance(row["value"], int | float)]
    if not found:
        return "-"
    best = max(found, key=lambda row: row["value"])
    return f"{best['value']:g}{unit} ({best['name'].removesuffix(end).rstrip(': ')})"


def _checks(record: Record) -> str:
    return "; ".join(_summary(record)) or "-"


def _summary(record: Record) -> Iterator[str]:
    for step in record["steps"]:
        states = [row["state"] for row in step["rows"]]
        if "ok" in states or "failed" in states or step["ending"] != "done":
            ending = "" if step["ending"] == "done" else f", {step['ending']}"
            yield f"{step['name']}: {states.count('ok')} hold, {states.count('failed')} failed{ending}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
