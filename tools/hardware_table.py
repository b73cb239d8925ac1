"""The README's table of hardware, out of the results of `tools/gpu_check` under `tools/results`.

python tools/hardware_table.py            # writes it
python tools/hardware_table.py --check    # exit code 1 if the README has another one
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from gpu_checks.record import NoRecordError, Part, Record, record_from_file  # noqa: E402
from gpu_checks.table import number_text  # noqa: E402

RESULTS = ROOT / "tools" / "results"
README = ROOT / "README.md"
BEGIN = "<!-- hardware table: made by tools/hardware_table.py -->"
END = "<!-- end of hardware table -->"

_COLUMNS = (
    "device", "software", "runtime / bare engine", "latency added, batch 1", "host work an image",
    "images/s: slots, JPEG files", "cores to keep it busy", "/ Ultralytics", "checks",
)  # fmt: skip
_RATIO, _ADDED = "runtime / bare engine, best batch", "batch 1: latency added to the bare engine call, p50"
_WORK, _FILES = "host work an image, outside decode and letterbox", "JPEG files to detections, all cores"
_CORES, _PEER = "cores that keep the bare engine busy", "ours / Ultralytics' predict, JPEG files"


def main(arguments: Sequence[str]) -> int:
    """The command: 0, or 1 with a line that says what is wrong."""
    unknown = [one for one in arguments if one != "--check"]
    if unknown:
        sys.stderr.write(f"error: {unknown[0]} is no option; give --check, or nothing\n")
        return 1
    try:
        text = README.read_text(encoding="utf-8")
        wanted = with_table(text, records(RESULTS))
    except (NoRecordError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if "--check" in arguments:
        if text != wanted:
            sys.stderr.write(
                "error: the README's hardware table is old; run python tools/hardware_table.py\n"
            )
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


def records(folder: Path) -> list[Record]:
    """Those in a folder: on GPUs first, the newest of each first.

    Raises:
        NoRecordError: A file there is none.
    """
    found = [record_from_file(path) for path in sorted(folder.glob("*.json"))]
    found.sort(key=lambda one: one.created, reverse=True)
    return sorted(found, key=lambda one: one.rehearsal)


def with_table(text: str, found: Sequence[Record]) -> str:
    """The README with that table between its marks.

    Raises:
        NoRecordError: It has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoRecordError(f"the README has no marks for the table; put back {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


def table(found: Sequence[Record]) -> str:
    """The records as a table in Markdown; a rehearsal is called one."""
    lines = []
    if not any(not one.rehearsal for one in found):
        lines += ["**No result of a GPU yet.**", ""]
    if found:
        lines += [_row(_COLUMNS), _row(["---"] * len(_COLUMNS)), *(_row(_cells(one)) for one in found)]
    return "\n".join(lines)


def _cells(record: Record) -> list[str]:
    return [
        _device(record),
        _software(record),
        _figure(record, _RATIO, interval=True),
        _figure(record, _ADDED),
        _figure(record, _WORK),
        " / ".join([_best_rate(record), _figure(record, _FILES, unit=False)]),
        _figure(record, _CORES),
        _figure(record, _PEER),
        _checks(record.parts),
    ]


def _device(record: Record) -> str:
    if record.rehearsal:
        return f"**no GPU**: rehearsal on {record.device}, {record.model}"
    gpus = record.machine.get("gpus") or [{}]
    capability = gpus[0].get("compute_capability")
    return f"{record.device} ({capability}), {record.model}"


def _software(record: Record) -> str:
    machine = record.machine
    packages = machine.get("packages") or {}
    said = [f"{record.created[:10]}, trt-yolo {record.version} {record.revision}".strip()]
    if machine.get("driver"):
        said.append(f"driver {machine['driver']}, CUDA {machine.get('cuda')}")
    names = ("tensorrt", "tensorrt-rtx-cu13", "onnxruntime-gpu", "onnxruntime")
    said.append(", ".join(f"{name} {packages[name]}" for name in names if packages.get(name)))
    return "; ".join(said)


def _figure(record: Record, name: str, *, interval: bool = False, unit: bool = True) -> str:
    row = record.row("bench", name)
    if row is None or not isinstance(row.value, int | float):
        return "-"
    text = number_text(float(row.value)) + (f" {row.unit}" if unit and row.unit else "")
    if interval and row.low is not None and row.high is not None:
        text += f" [{number_text(row.low)}, {number_text(row.high)}]"
    return text + (f" (goal {row.goal}: missed)" if row.state == "missed" else "")


def _best_rate(record: Record) -> str:
    rates = [
        float(row.value)
        for part, row in record.rows
        if part == "bench"
        and row.name.endswith("frames in shared memory to rows")
        and isinstance(row.value, int | float)
    ]
    return number_text(max(rates)) if rates else "-"


def _checks(parts: Sequence[Part]) -> str:
    failed = sum(row.state == "failed" for part in parts for row in part.rows)
    held = sum(row.state == "ok" for part in parts for row in part.rows)
    unfinished = [part.name for part in parts if part.ending != "done"]
    return f"{held} hold, {failed} failed" + (f"; cut short: {', '.join(unfinished)}" if unfinished else "")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
