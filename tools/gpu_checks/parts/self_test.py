"""Rows of a batch are those of its images alone, and those that ONNX Runtime finds on the CPU: every engine."""

from __future__ import annotations

from gpu_checks.candidates import Candidate, candidates
from gpu_checks.job import Job, Report
from gpu_checks.record import Row
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.engine.self_test import self_test
from trt_yolo.errors import TrtYoloError


def run(job: Job, report: Report) -> None:
    """See the module."""
    for candidate in candidates(job, report):
        report(_tested(candidate))


def _tested(candidate: Candidate) -> Row:
    try:
        with OnnxRuntimeBackend(candidate.onnx) as reference, candidate.backend() as backend:
            found = self_test(backend, reference)
    except TrtYoloError as error:
        return Row(name=candidate.label, state="failed", note=str(error))
    note = (
        f"{found.detections} detections, {found.unmatched} without a partner, scores within {found.worst_score:.2g}, "
        f"batches {', '.join(map(str, found.batches))}"
    )
    return Row(name=candidate.label, state="ok", value=found.worst_box_px, unit="px at most", note=note)
