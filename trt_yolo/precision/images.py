"""The images that precision is made and measured with: some to calibrate, others, held out, to judge.

Enters: what `--data` names, a folder or a data.yaml, or nothing. Leaves: `PrecisionImages`, all of them readable.
Without `--data` the demo model has its scenes, and a model with COCO's classes has coco128, 128 images of COCO,
downloaded once. Knows no models and no precision.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.weights import fetch_coco128
from trt_yolo.demo.scenes import NAMES as DEMO_NAMES
from trt_yolo.demo.scenes import write_yolo_dataset
from trt_yolo.errors import DownloadError, ImageError, InputError
from trt_yolo.evaluation.dataset import Labels, dataset_from_yaml, labels_of
from trt_yolo.media.images import read_image
from trt_yolo.media.sources import find_images
from trt_yolo.vision.letterbox import letterboxed

_LEAST_IMAGES = 16
_ADVISED_IMAGES = 100
MOST_CALIBRATION = 512
MOST_HELD_OUT = 256
_WANTED = "100 to 500 images like those that the camera will see, as a folder or a data.yaml"

_HELD_OUT_EVERY = 4  # of one folder every fourth image judges
_DEMO_SCENES = 128
_MOST_WARNINGS = 3
_SOME_COCO_CLASSES = {0: "person", 16: "dog", 79: "toothbrush"}

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class PrecisionImages:
    """Images to calibrate with and images to judge with.

    Attributes:
        calibration: Image files.
        held_out: Others.
        labels: Of each image held out; None where there are none.
    """

    calibration: list[Path]
    held_out: list[Path]
    labels: list[Labels] | None


def images_from(data: str, names: Mapping[int, str]) -> PrecisionImages:
    """The images that a person named.

    Args:
        data: A data.yaml, whose train split calibrates and whose val split judges; or a folder or file pattern, of
            which every fourth image judges.
        names: The model's class names.

    Raises:
        InputError: Nothing there, too few images, none that can be read, or labels that do not fit.
    """
    if Path(data).suffix.lower() not in (".yaml", ".yml"):
        return _divided(find_images([data]), names, data)
    calibrating = dataset_from_yaml(Path(data), split="train")
    judging = dataset_from_yaml(Path(data), split="val")
    if len(judging.names) != len(names):
        raise InputError(
            f"{data} has {len(judging.names)} classes and the model has {len(names)}; "
            "give the data file that the model was trained with"
        )
    if set(judging.images) & set(calibrating.images):  # coco128.yaml names one folder twice
        return _divided(sorted({*judging.images, *calibrating.images}), names, data)
    return _chosen(calibrating.images, judging.images, names, data)


def default_images(names: Mapping[int, str], *, folder: Path) -> PrecisionImages:
    """The images for a model that trt-yolo knows, when nobody named any.

    Args:
        names: The model's class names.
        folder: Demo scenes are written here.

    Raises:
        InputError: There are none for this model, or they cannot be downloaded; says what to give.
    """
    if dict(names) == DEMO_NAMES:
        return images_from(str(write_yolo_dataset(folder, train=_DEMO_SCENES, val=_DEMO_SCENES)), names)
    if len(names) == 80 and _SOME_COCO_CLASSES.items() <= dict(names).items():
        try:
            return images_from(str(fetch_coco128()), names)
        except DownloadError as error:
            raise InputError(
                f"there are no images to calibrate and judge with: give --data, {_WANTED} (coco128 could not be "
                f"downloaded: {str(error).partition(';')[0]})"
            ) from error
    raise InputError(
        f"there are no images of what this model detects, to calibrate and judge with: give --data, {_WANTED}"
    )


def frames_of(
    images: Sequence[Path], imgsz_hw: tuple[int, int]
) -> Callable[[], Iterator[npt.NDArray[np.uint8]]]:
    """Gives the images as letterboxed frames, (H, W, 3) uint8, read anew for every pass."""

    def frames() -> Iterator[npt.NDArray[np.uint8]]:
        for path in images:
            yield letterboxed(read_image(path), imgsz_hw)

    return frames


def images_sha256(images: Sequence[Path]) -> str:
    """One hash of the images' contents, in their order."""
    digest = hashlib.sha256()
    for path in images:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many of the items, evenly from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, most).astype(int).tolist()]


def _divided(images: list[Path], names: Mapping[int, str], data: str) -> PrecisionImages:
    """One set of images, divided into those that calibrate and those that judge."""
    _check_count(len(images), data)
    judging = images[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
    others = set(images).difference(judging)
    return _chosen([image for image in images if image in others], judging, names, data)


def _chosen(
    calibrating: Sequence[Path], judging: Sequence[Path], names: Mapping[int, str], data: str
) -> PrecisionImages:
    calibration = _readable(spread(calibrating, MOST_CALIBRATION), data)
    _check_count(len(calibration), data)
    if len(calibration) < _ADVISED_IMAGES:
        _log.warning(
            "%s gives %d images for calibration; with fewer than %d, values that are rare in them may be clipped "
            "where your camera sees them often: give %s",
            data, len(calibration), _ADVISED_IMAGES, _WANTED,
        )  # fmt: skip
    held_out = _readable(spread(judging, MOST_HELD_OUT), data)
    return PrecisionImages(calibration=calibration, held_out=held_out, labels=_labels(held_out, names))


def _check_count(count: int, data: str) -> None:
    if count < _LEAST_IMAGES:
        raise InputError(
            f"{data} gives {count} images for calibration, and at least {_LEAST_IMAGES} are needed; give {_WANTED}"
        )


def _readable(images: list[Path], data: str) -> list[Path]:
    """The images that can be read; the others are reported."""
    found: list[Path] = []
    problems: list[str] = []
    for path in images:
        try:
            read_image(path)
            found.append(path)
        except ImageError as error:
            problems.append(str(error))
    if not found:
        raise InputError(
            f"none of the {len(images)} images of {data} can be read ({problems[0]}); give {_WANTED}"
        )
    for problem in problems[:_MOST_WARNINGS]:
        _log.warning("%s (left out)", problem)
    if len(problems) > _MOST_WARNINGS:
        _log.warning("and %d more images of %s (left out)", len(problems) - _MOST_WARNINGS, data)
    return found


def _labels(images: list[Path], names: Mapping[int, str]) -> list[Labels] | None:
    """The labels of the images, if at least half of them have a label file and there is an object."""
    found = [labels_of(image, classes=len(names)) for image in images]
    there = [labels for labels in found if labels is not None]
    if 2 * len(there) < len(images) or not any(len(labels.class_id) for labels in there):
        return None
    nothing = Labels(boxes_cxcywhn=np.zeros((0, 4), np.float32), class_id=np.zeros(0, np.int64))
    return [nothing if labels is None else labels for labels in found]
