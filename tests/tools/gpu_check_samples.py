"""What the tests of `tools/gpu_check` begin with: an empty record, and a job."""

from __future__ import annotations

from pathlib import Path

from gpu_checks.job import Job
from gpu_checks.record import Part, Record


def empty_record(*names: str) -> Record:
    """Of a rehearsal, with the parts `names`, none of them run."""
    return Record(
        created="2026-11-25T00:00:00+00:00", version="0.1.0", revision="abc", command="", rehearsal=True,
        model="demo", device="a processor", machine={}, parts=[Part(name=name) for name in names],
    )  # fmt: skip


def rehearsed_job(folder: Path, model: str | None = None) -> Job:
    """A quick one of FP32 alone, that works in `folder`."""
    return Job(
        model=model,
        data=None,
        work=str(folder),
        rehearse=True,
        quick=True,
        precisions=("fp32",),
        deadline_s=0.0,
    )
