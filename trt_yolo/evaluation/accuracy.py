"""The accuracy of a model on labelled images, one image at a time.

Enters: a runner, and samples: letterboxed frames with their objects. Leaves: an `Accuracy`. Only rows are kept
of an image. `samples` makes samples from files; a list of them can be evaluated again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import ImageError, InputError
from trt_yolo.evaluation.coco import Accuracy, Truth, coco_map, evaluator_package
from trt_yolo.evaluation.dataset import Labels
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.evaluation.protocol import rows_for_map
from trt_yolo.media.images import read_image
from trt_yolo.system.progress import Progress, no_progress
from trt_yolo.vision.letterbox import Letterbox, boxes_to_source, fit_letterbox, letterboxed
from trt_yolo.vision.nms import Rows


class Sample(NamedTuple):
    """A labelled image, ready to be run.

    Attributes:
        frame_bgr: (H, W, 3) uint8, letterboxed.
        letterbox: How the source image lies in it.
        truth: Its objects, in source pixels.
    """

    frame_bgr: npt.NDArray[np.uint8]
    letterbox: Letterbox
    truth: Truth


def samples(
    images: Sequence[Path],
    labels: Sequence[Labels],
    imgsz_hw: tuple[int, int],
    *,
    skipped: list[str] | None = None,
) -> Iterator[Sample]:
    """The images as samples, read one by one as they are asked for.

    Args:
        images: Image files.
        labels: Of each image.
        imgsz_hw: Height and width of the model's input, in pixels.
        skipped: Takes a message for each image that cannot be read; it is left out.

    Raises:
        ImageError: An image cannot be read, and `skipped` is None.
    """
    for path, of_image in zip(images, labels, strict=True):
        try:
            image = read_image(path)
        except ImageError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        source_hw = image.shape[:2]
        truth = truth_from_labels(of_image, source_hw)
        yield Sample(letterboxed(image, imgsz_hw), fit_letterbox(source_hw, imgsz_hw), truth)


def truth_from_labels(labels: Labels, source_hw: tuple[int, ...]) -> Truth:
    """Labels, fractions of an image, as boxes in its pixels.

    Args:
        labels: Of one image.
        source_hw: Its height and width, in pixels.
    """
    centre, size = labels.boxes_cxcywhn[:, :2], labels.boxes_cxcywhn[:, 2:]
    corners = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    scale = np.array([source_hw[1], source_hw[0]] * 2, np.float32)
    return Truth(boxes_xyxy=corners * scale, class_id=labels.class_id)


def evaluate(
    runner: HeadRunner,
    labelled: Iterable[Sample],
    *,
    names: Mapping[int, str] | None = None,
    progress: Progress = no_progress,
) -> Accuracy:
    """COCO's mAP of a model, by the protocol of `yolo val`.

    Args:
        runner: The model.
        labelled: Samples letterboxed to its size; an iterator is read as the work goes on, and nothing is kept.
        names: Class names by class id; None takes the model's.
        progress: Told the samples that are done; how many there are it is not told.

    Raises:
        InputError: No samples, or not one object in them.
        BackendError: The model failed.
        MissingDependencyError: faster-coco-eval is not installed.
    """
    evaluator_package()  # its absence is told now, not after the work
    truths: list[Truth] = []
    predictions: list[Rows] = []
    waiting = iter(labelled)
    while batch := list(islice(waiting, runner.manifest.batch.minimum)):
        predictions += _predictions(runner, batch)
        truths += [sample.truth for sample in batch]
        progress("measuring accuracy", len(truths), 0)
    if not truths:
        raise InputError("there is no image to measure accuracy with; give images that can be read")
    if not any(len(truth.class_id) for truth in truths):
        raise InputError(
            f"the labels of the {len(truths)} images have no object, and accuracy needs some; "
            "give images with labelled objects"
        )
    return coco_map(truths, predictions, names=runner.manifest.names if names is None else names)


def _predictions(runner: HeadRunner, batch: list[Sample]) -> list[Rows]:
    """For each sample (M, 6) rows, best first, source pixels."""
    heads = runner.head(np.stack([sample.frame_bgr for sample in batch]))
    predictions = []
    for head, sample in zip(heads, batch, strict=True):
        rows = rows_for_map(head)
        boxes_xyxy = boxes_to_source(rows[:, :4], sample.letterbox)
        predictions.append(np.concatenate([boxes_xyxy, rows[:, 4:]], axis=1))
    return predictions
