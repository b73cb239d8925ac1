"""Runs the parts one after another, each in a process of its own with a limit of time.

A crash, a hang or a lost device in one does not take the others. Enters: names and a job. Leaves: a record that is
written after every part. Knows no part by its contents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_checks.job import Job
from gpu_checks.record import Part, Record, Row

# name: its share of the time that is left, beside those of the parts after it
SHARES = {
    "packages": 6, "build": 26, "unknowns": 5, "tests": 30, "self_test": 8, "parity": 10, "leaks": 8, "bench": 34,
}  # fmt: skip
_LEAST_S = 20.0  # a part gets that much while it is there
_OWN_END = 0.9  # of its limit: by then a part should end by itself
_STOP_S = 5.0
_LOOK_S = 0.05

Say = Callable[[str], None]
Done = Callable[[Part], None]


def run_parts(
    names: Sequence[str], job: Job, record: Record, *, budget_s: float, done: Done, say: Say
) -> None:
    """Runs them; what each found is in the record, whatever happened.

    Args:
        names: Which, in order.
        job: What they are told.
        record: Where their rows go; its parts are those names.
        budget_s: For all of them together, in seconds.
        done: Called after each one.
        say: Called with what runs next.

    Raises:
        KeyboardInterrupt: Ctrl-C; the part at hand is in the record as far as it had got.
    """
    end_s = time.time() + budget_s
    for number, name in enumerate(names):
        part = next(one for one in record.parts if one.name == name)
        rest = sum(SHARES[one] for one in names[number:])
        left_s = end_s - time.time()
        limit_s = max(1.0, left_s * SHARES[name] / rest, min(_LEAST_S, left_s))
        say(f"{name}: up to {limit_s:.0f} s")
        try:
            _run(part, dataclasses.replace(job, deadline_s=time.time() + _OWN_END * limit_s), limit_s)
        finally:
            done(part)


def _run(part: Part, job: Job, limit_s: float) -> None:
    rows, log = job.folder / f"{part.name}.rows", job.folder / f"{part.name}.log"
    command = [sys.executable, "-m", "gpu_checks.part", part.name, job.to_json(), str(rows)]
    begun_s = time.monotonic()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        except KeyboardInterrupt:
            part.ending, part.error = "interrupted", "Ctrl-C"
            raise
        finally:
            _end(process)
            part.seconds = time.monotonic() - begun_s
            part.rows = _rows(rows)
    if code is None:
        part.ending, part.error = (
            "out of time",
            f"it had {limit_s:.0f} s; give more with --budget, or --only {part.name}",
        )
    elif code < 0:
        part.ending, part.error = "crashed", f"{signal.Signals(-code).name}; {_last_line(log)}"
    else:
        part.ending, part.error = ("failed", _last_line(log)) if code else ("done", "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all that it started: they share its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline_s = time.monotonic() + _STOP_S
        while process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(_LOOK_S)


def _rows(path: Path) -> list[Row]:
    """Those that are whole: the last line may be cut."""
    found = []
    with contextlib.suppress(OSError, ValueError, TypeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            found.append(Row(**json.loads(line)))
    return found


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:400] if said else "it says nothing"
