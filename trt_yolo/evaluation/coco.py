"""COCO's mean average precision, computed by faster-coco-eval.

Enters: objects and detections of each image, in source pixels. Leaves: an `Accuracy`. Knows no models and no
files, prints nothing.

Matching, precision and its 101 recalls are COCO's. What is made of the 101 values is a choice. COCO takes their
mean. `yolo val` takes the area under them by trapezoids, and counts the precision above each recall instead of
at it: a class whose objects are all found scores 0.995, not 1. On the 64 images of COCO val2017 in our tests
that is 0.0036 less. The default is `yolo val`'s, so that a model scores what its training said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import MissingDependencyError
from trt_yolo.evaluation.protocol import MAX_DETECTIONS
from trt_yolo.vision.nms import Rows

_Integration = Literal["yolo-val", "coco"]

_RECALLS = np.linspace(0, 1, 101)
_ABOVE = 1e-9  # far less than one object among a million
_EVERY_AREA = [0.0, 1e10]  # square pixels, COCO's own limits of "all"
_IOU_50 = 0  # the first of COCO's ten IoU limits, 0.5 to 0.95


@dataclass(frozen=True)
class Truth:
    """The objects of one image.

    Attributes:
        boxes_xyxy: (N, 4) float32, x1 y1 x2 y2, source pixels.
        class_id: (N,) int64.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ClassAccuracy:
    """Average precision of one class, 0 to 1, and how many objects of it there are."""

    map50_95: float
    map50: float
    instances: int


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How good detections are.

    Attributes:
        map50_95: Mean of the classes' average precision, itself the mean over IoU limits 0.5 to 0.95; 0 to 1.
        map50: The same at an IoU limit of 0.5.
        per_class: By class id; a class without objects does not count.
        images: Images that were looked at.
        instances: Objects in them.
    """

    map50_95: float
    map50: float
    per_class: dict[int, ClassAccuracy]
    images: int
    instances: int


def coco_map(
    truths: Sequence[Truth],
    predictions: Sequence[Rows],
    *,
    names: Mapping[int, str],
    integration: _Integration = "yolo-val",
) -> Accuracy:
    """The accuracy of the predictions, by COCO's protocol with up to 300 detections an image.

    Args:
        truths: The objects of each image.
        predictions: For each image (M, 6) float32 rows, x1 y1 x2 y2 score class, source pixels.
        names: Class names by class id.
        integration: What is made of the precision at 101 recalls; see above.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.
    """
    all_ids = np.concatenate([truth.class_id for truth in truths] or [np.zeros(0, np.int64)])
    counts = np.bincount(all_ids, minlength=len(names))
    classes = np.flatnonzero(counts).tolist()
    average = _average_precision(truths, predictions, classes, integration)  # (IoU limits, classes)
    per_class = {
        class_id: ClassAccuracy(
            map50_95=float(column.mean()), map50=float(column[_IOU_50]), instances=int(counts[class_id])
        )
        for class_id, column in zip(classes, average.T, strict=True)
    }
    return Accuracy(
        map50_95=_mean([one.map50_95 for one in per_class.values()]),
        map50=_mean([one.map50 for one in per_class.values()]),
        per_class=per_class,
        images=len(truths),
        instances=int(counts.sum()),
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _average_precision(
    truths: Sequence[Truth], predictions: Sequence[Rows], classes: list[int], integration: _Integration
) -> npt.NDArray[np.float64]:
    """(10, classes): the average precision at each IoU limit."""
    wanted = set(classes)
    found = [one for one in _found(predictions) if one["category_id"] in wanted]
    if not found:
        return np.zeros((10, len(classes)))
    if integration == "coco":
        return np.asarray(_precision(truths, found, classes, _RECALLS).mean(axis=1))
    precision = _precision(truths, found, classes, _RECALLS + _ABOVE)
    return np.asarray((precision[:, 1:] + precision[:, :-1]).mean(axis=1) / 2)


def _precision(
    truths: Sequence[Truth],
    found: list[dict[str, Any]],
    classes: list[int],
    recalls: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """(10, recalls, classes): the best precision at each IoU limit and recall, 0 where it is not reached."""
    package = evaluator_package()
    truth = package.COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(truths))],
        "annotations": _annotations(truths),
        "categories": [{"id": class_id} for class_id in classes],
    }
    truth.createIndex()
    evaluator = package.COCOeval_faster(
        truth, truth.loadRes(found), iouType="bbox", print_function=_print_nothing
    )
    parameters = evaluator.params
    parameters.maxDets, parameters.recThrs = [MAX_DETECTIONS], recalls
    parameters.areaRng, parameters.areaRngLbl = [_EVERY_AREA], ["all"]
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"][:, :, :, 0, 0], np.float64)


def evaluator_package() -> Any:
    """faster-coco-eval, imported.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import faster_coco_eval
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "computing mAP needs faster-coco-eval: pip install 'trt-yolo[cpu]' "
            "(or 'trt-yolo[gpu]' on a machine with an NVIDIA GPU)"
        ) from error
    return faster_coco_eval


def _print_nothing(*_: object) -> None:
    pass


def _annotations(truths: Sequence[Truth]) -> list[dict[str, Any]]:
    """The objects as COCO has them. Numbered from 1: the evaluator takes 0 for unmatched."""
    annotations: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        for class_id, box in zip(truth.class_id.tolist(), _xywh(truth.boxes_xyxy), strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": class_id, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0}
            )  # fmt: skip
    return annotations


def _found(predictions: Sequence[Rows]) -> list[dict[str, Any]]:
    """The detections as COCO has them."""
    return [
        {"image_id": image, "category_id": int(class_id), "score": score, "bbox": box, "segmentation": []}
        for image, rows in enumerate(predictions)
        for (score, class_id), box in zip(rows[:, 4:].tolist(), _xywh(rows[:, :4]), strict=True)
    ]


def _xywh(boxes_xyxy: npt.NDArray[np.float32]) -> list[list[float]]:
    boxes = boxes_xyxy.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return list(boxes.tolist())
