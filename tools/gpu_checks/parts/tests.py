"""`pytest -m gpu`, which fails where it cannot have a GPU; without its soak tests, whose work `leaks` does shorter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from gpu_checks.job import Job, Report
from gpu_checks.record import Row, State

ROOT = Path(__file__).resolve().parent.parent.parent.parent
_LONG = (
    "test_memory_of_the_device_stays_when_engines_come_and_go",
    "test_memory_of_the_device_stays_over_many_inferences",
)


def run(job: Job, report: Report) -> None:
    """See the module."""
    results = job.folder / "tests.xml"
    environment = os.environ | ({} if job.rehearse else {"TRT_YOLO_REQUIRE_GPU": "1"})
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={results}",
        "-k", " and ".join(f"not {name}" for name in _LONG),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=max(1.0, job.left_s),
            check=False,
        )
        late, output = "", done.stdout
    except subprocess.TimeoutExpired as error:
        late, output = "they were not ready in time", str(error.stdout or "")
    if not results.is_file():
        lines = [line for line in output.splitlines() if line.strip()]
        report(Row(name="pytest -m gpu", state="failed", note=late or (lines[-1] if lines else "no output")))
        return
    _tell(results, report)


def _tell(results: Path, report: Report) -> None:
    """Counts, and the first line of each failure. The file is our own: pytest has just written it."""
    cases = ElementTree.parse(results).getroot().iter("testcase")  # noqa: S314
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in cases:
        bad = next((one for one in case if one.tag in ("failure", "error")), None)
        kind = "failed" if bad is not None else "skipped" if case.find("skipped") is not None else "passed"
        counts[kind] += 1
        if bad is not None:
            said = (bad.get("message") or bad.text or "").strip().splitlines()
            report(Row(name=str(case.get("name")), state="failed", note=said[0] if said else ""))
    state: State = "failed" if counts["failed"] else "ok" if counts["passed"] else "absent"
    note = f"{counts['failed']} failed, {counts['skipped']} skipped"
    report(Row(name="pytest -m gpu", state=state, value=counts["passed"], unit="passed", note=note))
