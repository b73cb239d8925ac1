"""Each precision, static and dynamic, exported; and an engine of it by every builder that is there."""

from __future__ import annotations

from gpu_checks.candidates import engines, onnx_files
from gpu_checks.job import Job, Report


def run(job: Job, report: Report) -> None:
    """See the module."""
    onnx_files(job, report)
    engines(job, report)
