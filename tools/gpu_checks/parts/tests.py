"""`pytest -m gpu`, which fails where it cannot have a GPU; without its soak tests, whose work `leaks` does shorter."""

from __future__ import annotations

import contextlib
import os
import re
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
    """See the module. Where time runs out, those that were ready are counted."""
    results, log = job.folder / "tests.xml", job.folder / "pytest.log"
    environment = os.environ | ({} if job.rehearse else {"TRT_YOLO_REQUIRE_GPU": "1"})
    command = [
        sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", f"--junitxml={results}",
        "-k", " and ".join(f"not {name}" for name in _LONG),
    ]  # fmt: skip
    with log.open("wb") as output, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=max(1.0, job.left_s),
            check=False,
        )  # fmt: skip
    if results.is_file():
        _tell(results, report)
    else:
        _tell_so_far(log.read_text(encoding="utf-8", errors="replace"), report)


def _tell_so_far(output: str, report: Report) -> None:
    """Counts of what pytest had printed, a line a test, until it was ended."""
    ended = re.findall(r"^(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", output, re.MULTILINE)
    for name, kind in ended:
        if kind in ("FAILED", "ERROR"):
            report(
                Row(
                    name=name.partition("::")[2],
                    state="failed",
                    note="its time was over before it could say why",
                )
            )
    counts = {kind: sum(one == kind for _, one in ended) for kind in ("PASSED", "SKIPPED")}
    lines = [line for line in output.splitlines() if line.strip()]
    note = f"out of time after {len(ended)} tests, {counts['SKIPPED']} skipped; --only tests has more"
    if not ended:
        note = f"no test ended: {lines[-1] if lines else 'no output'}"
    report(Row(name="pytest -m gpu", state="failed", value=counts["PASSED"], unit="passed", note=note))


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
