"""The gate: layers go back to floating point, one after another, until the accuracy holds.

Enters: a first choice of layers, the order of the others, and ways to build and judge a model. Leaves: the model
that passed. Knows neither int8 nor FP16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trt_yolo.errors import ExportError
from trt_yolo.evaluation.coco import Accuracy
from trt_yolo.precision.judging import Judge
from trt_yolo.precision.report import drop_points
from trt_yolo.precision.search import Build, StepProgress


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A model within the allowed drop.

    Attributes:
        model: The artifact, an ONNX file's bytes.
        accuracy: Its accuracy.
        kept: Outputs of the convolutions left in float.
        put_back: Those of them that the gate put back, and the drop in points that made it do so.
    """

    model: bytes
    accuracy: Accuracy
    kept: frozenset[str]
    put_back: dict[str, float]


def pass_gate(
    judge: Judge,
    build: Build,
    *,
    start: frozenset[str],
    candidates: Sequence[str] | Iterator[str],
    max_drop: float,
    what: str,
    first: tuple[bytes, Accuracy] | None = None,
    progress: StepProgress | None = None,
) -> Passed:
    """The first model within the allowed drop.

    Args:
        judge: Measures.
        build: Makes models.
        start: Outputs of the convolutions that are left in float anyway.
        candidates: Others, in the order in which they are put back; asked for only when they are needed.
        max_drop: Points of mAP50-95 that may be lost.
        what: Of the precision, for the error.
        first: The model of `start` and its accuracy, where they are known.
        progress: Called after each step.

    Raises:
        ExportError: None is within it, with all candidates put back.
    """
    model = build(start) if first is None else first[0]
    accuracy = judge.accuracy(model) if first is None else first[1]
    best = drop = drop_points(judge.before, accuracy)
    put_back: dict[str, float] = {}
    waiting = iter(candidates)
    while not drop <= max_drop:  # what is no number does not pass
        output = next(waiting, None)
        if output is None:
            raise ExportError(
                f"{what} loses {best:.2f} points of mAP50-95 at best ({max_drop:g} allowed), with {len(put_back)} more "
                "layers put back; nothing was written: give images that are more like the camera's with --data, "
                "or allow more with --max-drop"
            )
        put_back[output] = drop
        model = build(start | put_back.keys())
        accuracy = judge.accuracy(model)
        drop = drop_points(judge.before, accuracy)
        best = min(best, drop)
        if progress is not None:
            progress(len(put_back), 0)
    return Passed(model=model, accuracy=accuracy, kept=start | put_back.keys(), put_back=put_back)
