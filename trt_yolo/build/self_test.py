"""Does an engine find what its ONNX finds, in every row of a batch? Run on the GPU, right after the build.

Enters: two backends. Leaves: a `SelfTest`. Engines that give the first row of a batch right and the others wrong
have been shipped by others; none leaves here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_yolo.backends.base import Backend, Frames, Rows
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.errors import BackendError, ExportError, MissingDependencyError
from trt_yolo.evaluation.parity import check_frames
from trt_yolo.vision.agreement import matched_pairs

_CONF = (0.25, 0.05, 0.01, 0.001)
_ENOUGH = 20  # detections; with fewer the threshold goes down
_IOU = 0.7
_SAME_OBJECT_IOU = 0.8
_SAME_ROW = 1e-2  # pixels and scores; kernels may sum a row's products in another order
_BOX_PX = {"fp32": 2.0, "fp16": 4.0, "int8": 16.0}
_SCORE = {"fp32": 0.02, "fp16": 0.03, "int8": 0.15}  # TensorRT's FP32 convolutions multiply TF32
_UNMATCHED = {"fp32": 0.05, "fp16": 0.1, "int8": 0.2}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """How an engine compares with its ONNX in ONNX Runtime on the CPU.

    Attributes:
        batches: The batch sizes that were run.
        detections: Detections of the ONNX.
        unmatched: Detections that only one of them has.
        worst_box_px: The largest difference of a detection's side, letterboxed pixels.
        worst_score: The largest difference of a detection's score.
    """

    batches: tuple[int, ...]
    detections: int
    unmatched: int
    worst_box_px: float
    worst_score: float


def self_test(engine: Backend, reference: Backend) -> SelfTest:
    """Runs both on demo scenes, in batches of every size that matters.

    Args:
        engine: What was built.
        reference: The same graph elsewhere.

    Raises:
        ExportError: Rows of a batch differ, or the engine finds something else.
    """
    manifest = engine.manifest
    frames = check_frames(manifest.frame_hw, ())
    conf, wanted = _wanted(reference, frames)
    batches = sorted({manifest.batch.minimum, min(2, manifest.batch.maximum), manifest.batch.maximum})
    found = [engine.infer(frame[None], conf=conf, iou=_IOU)[0] for frame in frames]
    for batch in batches:
        _check_rows(engine, frames, found, batch, conf)
    try:
        return _compared(wanted, found, batches, manifest.precision)
    except ExportError as error:
        raise ExportError(f"it finds something else than ONNX Runtime: {error}") from error


def check_engine(engine: Path, onnx: Path) -> SelfTest | None:
    """The self-test of an engine with its manifest; None, and why in the log, where nothing here can run it.

    Raises:
        ExportError: It failed.
    """
    looked_at = engine_at(engine)
    if looked_at.problem:
        _log.info("the engine is not tested: %s", looked_at.problem)
        return None
    from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
    from trt_yolo.backends.tensorrt import TensorRTBackend

    try:
        with OnnxRuntimeBackend(onnx) as reference, TensorRTBackend(engine) as candidate:
            return self_test(candidate, reference)
    except MissingDependencyError as error:
        _log.warning("the engine was not tested: %s", error)
        return None
    except (ExportError, BackendError) as error:
        raise ExportError(f"the engine built from {onnx} fails its test: {error}; it was not kept") from error


def _wanted(reference: Backend, frames: Frames) -> tuple[float, list[Rows]]:
    """What the ONNX finds, with the highest threshold at which it finds enough."""
    for conf in _CONF:
        wanted = [reference.infer(frame[None], conf=conf, iou=_IOU)[0] for frame in frames]
        wanted = [_kept(rows) for rows in wanted]
        if sum(map(len, wanted)) >= _ENOUGH:
            break
    return conf, wanted


def _check_rows(engine: Backend, frames: Frames, found: list[Rows], batch: int, conf: float) -> None:
    """Rows of equal images are equal; of different ones, each finds what its image alone lets the engine find.

    Only the first is strict: another batch size may run other kernels, which sum in another order.
    """
    equal = engine.infer(np.repeat(frames[:1], batch, axis=0), conf=conf, iou=_IOU)
    off = np.abs(equal - equal[:1]).reshape(batch, -1).max(axis=1)
    for row in np.flatnonzero(~(off <= _SAME_ROW)):  # no number is not either
        raise ExportError(
            f"row {row} of a batch of {batch} equal images differs from row 0 by up to {off[row]:.3g}"
        )
    order = [row % len(frames) for row in range(batch)]
    mixed = engine.infer(frames[order], conf=conf, iou=_IOU)
    try:
        _compared([_kept(found[index]) for index in order], list(mixed), [batch], engine.manifest.precision)
    except ExportError as error:
        raise ExportError(
            f"a batch of {batch} different images finds something else than each alone: {error}"
        ) from error


def _kept(rows: Rows) -> Rows:
    return rows[rows[:, 4] > 0]


def _compared(wanted: list[Rows], found: list[Rows], batches: list[int], precision: str) -> SelfTest:
    unmatched, worst = 0, np.zeros(5)
    for one, other in zip(wanted, found, strict=True):
        if not np.isfinite(other).all():
            raise ExportError("a detection has a value that is no number")
        other = _kept(other)
        pairs = matched_pairs(
            one[:, :4], one[:, 5].astype(np.int64), other[:, :4], other[:, 5].astype(np.int64),
            iou=_SAME_OBJECT_IOU,
        )  # fmt: skip
        unmatched += len(one) + len(other) - 2 * len(pairs)
        for first, second in pairs:
            worst = np.maximum(worst, np.abs(one[first, :5] - other[second, :5]))
    test = SelfTest(
        batches=tuple(batches), detections=sum(map(len, wanted)), unmatched=unmatched,
        worst_box_px=float(worst[:4].max()), worst_score=float(worst[4]),
    )  # fmt: skip
    allowed = max(2, int(_UNMATCHED[precision] * 2 * test.detections))
    if unmatched > allowed or test.worst_box_px > _BOX_PX[precision] or test.worst_score > _SCORE[precision]:
        raise ExportError(
            f"{unmatched} detections of {test.detections} have no partner (allowed {allowed}), boxes "
            f"differ by up to {test.worst_box_px:.3g} pixels (allowed {_BOX_PX[precision]}), scores by "
            f"{test.worst_score:.3g} (allowed {_SCORE[precision]})"
        )
    return test
