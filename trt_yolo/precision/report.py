"""What is told of a precision: accuracy before and after, and every layer that was left in floating point."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from trt_yolo.evaluation.coco import Accuracy


@dataclass(frozen=True, kw_only=True)
class KeptLayer:
    """A convolution that is not in the precision asked for.

    Attributes:
        name: Its node.
        precision: `fp16` or `fp32`.
        reason: Why.
        macs_share: Its share of all multiply-accumulates, 0 to 1.
        error: How far outputs move if it alone is of low precision; None where it was not measured.
    """

    name: str
    precision: str
    reason: str
    macs_share: float
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one calibration method gave.

    Attributes:
        method: Its name.
        error: How far boxes and scores move with all layers in int8; see `judge.output_error`.
    """

    method: str
    error: float


@dataclass(frozen=True, kw_only=True)
class PrecisionReport:
    """How a precision was made, and what it costs.

    Attributes:
        precision: `fp16` or `int8`.
        target: `tensorrt` or `cpu`.
        before: The float model's accuracy.
        after: The artifact's, on the same images.
        max_drop: Points of mAP50-95 that were allowed.
        reference: What counted as right: `labels`, or `the float model's detections`, then on mirrored images.
        held_out_images: How many images judged.
        calibration_images: How many calibrated; 0 for FP16.
        calibration_reused: Whether the cache had all of it.
        method: The calibration method chosen; empty for FP16.
        methods: Every method that was tried.
        int8_share: Share of multiply-accumulates in int8, 0 to 1.
        kept: Layers that were left in floating point.
        bytes_before: Size of the float artifact.
        bytes_after: Size of this one.
        speedup: How many times as fast as the float artifact on the exporting machine's processor; None: not measured.
        instructions: That processor's instructions for int8 products; empty where it has none.
    """

    precision: str
    target: str
    before: Accuracy
    after: Accuracy
    max_drop: float
    reference: str
    held_out_images: int
    calibration_images: int = 0
    calibration_reused: bool = False
    method: str = ""
    methods: list[MethodResult] = field(default_factory=list)
    int8_share: float = 0.0
    kept: list[KeptLayer] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    speedup: float | None = None
    instructions: str = ""

    @property
    def drop(self) -> float:
        """Points of mAP50-95 lost; negative where it rose."""
        return drop_points(self.before, self.after)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "map50_95_before": round(self.before.map50_95, 6),
            "map50_95_after": round(self.after.map50_95, 6),
            "map50_before": round(self.before.map50, 6),
            "map50_after": round(self.after.map50, 6),
            "drop_points": round(self.drop, 4),
            "max_drop": self.max_drop,
            "reference": self.reference,
            "held_out_images": self.held_out_images,
            "calibration_images": self.calibration_images,
            "calibration_reused": self.calibration_reused,
            "method": self.method,
            "methods": [dataclasses.asdict(one) for one in self.methods],
            "target": self.target,
            "int8_share": round(self.int8_share, 4),
            "kept_fp16": [dataclasses.asdict(one) for one in self.kept],
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "speedup": None if self.speedup is None else round(self.speedup, 3),
            "instructions": self.instructions,
            "size_ratio": round(self.bytes_after / max(self.bytes_before, 1), 4),
        }


def drop_points(before: Accuracy, after: Accuracy) -> float:
    """Points of mAP50-95, of a hundred, that are lost from one to the other."""
    return 100 * (before.map50_95 - after.map50_95)
