"""How much accuracy a precision costs: the float model and others, on the same held-out images.

Enters: the float model, and images held out. Leaves: mAP, and how far outputs move. Where there are labels, mAP
is COCO's. Where there are none, the float model's detections stand for them, and both models are shown the images
mirrored: judged on the very same pixels the float model would be right by definition, and each rounding error a
fault. Knows no quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError
from trt_yolo.evaluation.accuracy import Sample, evaluate, samples
from trt_yolo.evaluation.coco import Accuracy, Truth
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.precision.images import PrecisionImages, frames_of
from trt_yolo.vision.letterbox import fit_letterbox
from trt_yolo.vision.nms import greedy_nms, rows_from_head

_Reference = Literal["labels", "the float model's detections"]
Heads = list[npt.NDArray[np.float32]]

_CONF, _IOU = 0.25, 0.7  # of the float model's detections that stand for labels
_LEAST_SCORE = 0.05  # what scores less, moves unseen
_MOST_ROWS = 512
_LARGEST_ERROR = 1e3


class Judge:
    """Measures models against the float model.

    Attributes:
        reference: What counts as right.
        before: The float model's accuracy.

    Args:
        float_model: The float model, an ONNX file's bytes.
        images: Those held out judge.
        threads: CPU threads of one inference.

    Raises:
        InputError: No labels, and the float model finds nothing either.
        MissingDependencyError: faster-coco-eval or onnxruntime is not installed.
    """

    reference: _Reference

    def __init__(self, float_model: bytes, images: PrecisionImages, *, threads: int) -> None:
        self._threads = threads
        with HeadRunner(float_model, threads=threads) as runner:
            self._samples = _labelled(runner, images) or _mirrored(runner, images)
            self.reference = "labels" if images.labels is not None else "the float model's detections"
            self.before = evaluate(runner, self._samples())

    def accuracy(self, model: bytes) -> Accuracy:
        """The accuracy of a model, an ONNX file's bytes, on the same images."""
        with HeadRunner(model, threads=self._threads) as runner:
            return evaluate(runner, self._samples())


def heads_of(model: bytes, frames: Sequence[npt.NDArray[np.uint8]], *, threads: int) -> Heads:
    """For each frame the model's head output, (4 + classes, anchors) float32."""
    with HeadRunner(model, threads=threads) as runner:
        return [runner.head(frame[None])[0] for frame in frames]


def output_error(wanted: Heads, got: Heads) -> float:
    """How far boxes and scores move, on average over what the float model sees, weighted by its score.

    0 is no difference. Of a box counts the mean move of its sides in units of its size, of the scores the largest
    change. Unlike mAP it moves a little with every little error, so that a few images are enough to compare two
    models.

    Args:
        wanted: Heads of the float model.
        got: Heads of the other one, for the same frames.
    """
    total = weight = 0.0
    for before, after in zip(wanted, got, strict=True):
        best = before[4:].max(axis=0)
        seen = best > _LEAST_SCORE
        before, after, score = before[:, seen], after[:, seen], best[seen]
        size = np.concatenate([before[2:4]] * 2)
        moved = (np.abs(before[:4] - after[:4]) / size).mean(axis=0)
        changed = np.abs(before[4:] - after[4:]).max(axis=0)
        error = np.nan_to_num(moved + changed, nan=_LARGEST_ERROR)
        total += float(np.minimum(error, _LARGEST_ERROR) @ score)
        weight += float(score.sum())
    return total / max(weight, 1e-9)


def _labelled(runner: HeadRunner, images: PrecisionImages) -> Callable[[], Iterator[Sample]] | None:
    labels = images.labels
    if labels is None:
        return None
    return lambda: samples(images.held_out, labels, runner.manifest.imgsz_hw)


def _mirrored(runner: HeadRunner, images: PrecisionImages) -> Callable[[], Iterator[Sample]]:
    """The images mirrored, with the float model's detections on the images as they are."""
    imgsz_hw = runner.manifest.imgsz_hw
    frames = frames_of(images.held_out, imgsz_hw)
    truths = [_mirrored_truth(runner.head(frame[None])[0], imgsz_hw[1]) for frame in frames()]
    if not any(len(truth.class_id) for truth in truths):
        raise InputError(
            f"the float model finds nothing in the {len(truths)} images that are held out, and they have no labels: "
            "nothing can be compared; give images of what it detects"
        )
    whole = fit_letterbox(imgsz_hw, imgsz_hw)

    def mirrored() -> Iterator[Sample]:
        for frame, truth in zip(frames(), truths, strict=True):
            yield Sample(np.ascontiguousarray(frame[:, ::-1]), whole, truth)

    return mirrored


def _mirrored_truth(head: npt.NDArray[np.float32], width: int) -> Truth:
    rows = greedy_nms(rows_from_head(head, conf=_CONF, limit=_MOST_ROWS), iou=_IOU)
    boxes = rows[:, :4].copy()
    boxes[:, [0, 2]] = width - rows[:, [2, 0]]
    return Truth(boxes_xyxy=boxes, class_id=rows[:, 5].astype(np.int64))
