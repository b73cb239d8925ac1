"""Parts of a check that go wrong in every way; `patched` puts them where `gpu_checks.part` looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu_checks.job import Job, Report
from gpu_checks.record import Row


def run(job: Job, report: Report) -> None:
    """Does what the job's model says."""
    report(Row(name="before", state="ok", value=1.5, unit="x"))
    assert job.model is not None
    if job.model == "raises":
        raise ValueError("two\nlines")
    if job.model == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.model == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (job.folder / "child").write_text(str(child.pid))
        time.sleep(600)
    if job.model == "deadline":
        report(Row(name="left", value=job.left_s))
    if job.model == "cut":
        with Path(sys.argv[3]).open("a") as rows:
            rows.write('{"name": "ha')
        os._exit(0)
    report(Row(name="after", state="failed" if job.model == "fails" else "ok"))
