"""The one place that says how close two sets of detections must be."""

from __future__ import annotations

import numpy as np

from trt_yolo.detections import Detections
from trt_yolo.vision.agreement import iou_matrix, matched_pairs

BOX_TOLERANCE_PX = 0.05
SCORE_TOLERANCE = 1e-4


def assert_detections_match(got: Detections, wanted: Detections) -> None:
    """Fails unless both hold the same objects, one to one, boxes and scores within FP32's tolerance."""
    assert len(got) == len(wanted), f"{len(got)} detections, wanted {len(wanted)}"
    pairs = matched_pairs(got.xyxy, got.class_id, wanted.xyxy, wanted.class_id, iou=0.9)
    assert len(pairs) == len(wanted), f"only {len(pairs)} of {len(wanted)} detections have a partner"
    for first, second in pairs:
        np.testing.assert_allclose(got.xyxy[first], wanted.xyxy[second], atol=BOX_TOLERANCE_PX)
        np.testing.assert_allclose(got.confidence[first], wanted.confidence[second], atol=SCORE_TOLERANCE)


def share_matched(got: Detections, wanted: Detections, *, iou: float, score: float) -> tuple[int, int]:
    """How many of `wanted` have a partner in `got` (class, IoU, score), and how many of `got` have none."""
    overlap = iou_matrix(got.xyxy, wanted.xyxy)
    pairs = matched_pairs(got.xyxy, got.class_id, wanted.xyxy, wanted.class_id, iou=iou)
    close = [
        (first, second)
        for first, second in pairs
        if overlap[first, second] >= iou
        and abs(float(got.confidence[first] - wanted.confidence[second])) <= score
    ]
    return len(close), len(got) - len(close)
