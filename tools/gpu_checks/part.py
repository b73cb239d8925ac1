"""One part in a process of its own: `python -m gpu_checks.part NAME JOB ROWS_FILE`.

Rows go to the file one by one, so that those before a crash are there after it.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import TextIO

from gpu_checks.job import Job
from gpu_checks.record import Row


def run_part(name: str, job: Job, rows: TextIO) -> None:
    """Runs a part to its end; what it raises is its end too."""

    def report(row: Row) -> None:
        rows.write(json.dumps(row.to_dict(), ensure_ascii=False) + "\n")
        rows.flush()

    importlib.import_module(f"gpu_checks.parts.{name}").run(job, report)


def main() -> None:
    """The process: exit code 0 at the end, 1 after an error, whose last line on stderr says which."""
    name, job, path = sys.argv[1:]
    with Path(path).open("w", encoding="utf-8") as rows:
        try:
            run_part(name, Job.from_json(job), rows)
        except Exception as error:  # noqa: BLE001  whatever it is, the runner should hear it in one line
            traceback.print_exc()
            sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
            sys.exit(1)


if __name__ == "__main__":
    main()
