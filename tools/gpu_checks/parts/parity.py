"""What a model finds through the whole runtime, against ONNX Runtime on the CPU, on real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu_checks.candidates import Candidate, candidates
from gpu_checks.images import pixels
from gpu_checks.job import Job, Report
from gpu_checks.record import Row
from trt_yolo import load
from trt_yolo.detections import Detections
from trt_yolo.errors import TrtYoloError
from trt_yolo.vision.matching import matched_pairs

_IMAGES = 24
_ALIKE = {
    "fp32": (0.95, 0.02, 0.02),
    "fp16": (0.9, 0.03, 0.05),
    "int8": (0.8, 0.15, 0.2),
}  # IoU, score, alone


def run(job: Job, report: Report) -> None:
    """See the module."""
    images = pixels(job, _IMAGES)
    wanted: dict[str, list[Detections]] = {}
    for candidate in candidates(job, report):
        key = str(candidate.onnx)
        if key not in wanted:
            with load(candidate.onnx, provider="cpu") as reference:
                wanted[key] = reference(images)
        for workers in (0, 1):
            name = f"{candidate.label}, {'in a worker' if workers else 'in process'}"
            try:
                with load(candidate.path, provider=candidate.provider, workers=workers) as model:
                    found = [model(images) for _ in range(3)][-1]  # plain, captured, replayed
            except TrtYoloError as error:
                report(Row(name=name, state="failed", note=str(error)))
                continue
            report(_compared(name, candidate, found, wanted[key]))


def _compared(
    name: str, candidate: Candidate, found: Sequence[Detections], wanted: Sequence[Detections]
) -> Row:
    iou, score, alone_share = _ALIKE[candidate.precision]
    count = alone = 0
    worst_px = worst_score = 0.0
    for one, other in zip(found, wanted, strict=True):
        pairs = matched_pairs(one.xyxy, one.class_id, other.xyxy, other.class_id, iou=iou)
        count += len(other)
        alone += len(one) + len(other) - 2 * len(pairs)
        for ours, theirs in pairs:
            worst_px = max(worst_px, float(np.abs(one.xyxy[ours] - other.xyxy[theirs]).max()))
            worst_score = max(worst_score, abs(float(one.confidence[ours] - other.confidence[theirs])))
    holds = alone <= max(2, alone_share * 2 * count) and worst_score <= score
    note = f"{count} detections on {len(wanted)} images, {alone} without a partner, scores within {worst_score:.2g}"
    return Row(
        name=name, state="ok" if holds and count else "failed", value=worst_px, unit="px at most", note=note
    )
