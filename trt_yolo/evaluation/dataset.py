"""Labelled images as Ultralytics lays them out: a data.yaml, folders of images, a label file for each.

Enters: the path of a data.yaml and a split. Leaves: image paths, class names, and labels as fractions of an
image. Reads no image and knows no model. A label that Ultralytics would drop with a warning is an error.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError
from trt_yolo.media.images import SUFFIXES
from trt_yolo.system.paths import absence

_SPLITS = ("train", "val", "test")
_COORDINATE_TOLERANCE = 0.01  # how far outside 0..1 Ultralytics lets a coordinate be
_BOX_FIELDS = 5  # class, centre x and y, width, height
_LEAST_POLYGON_FIELDS = 7  # class and three points


@dataclass(frozen=True)
class Dataset:
    """One split of a data file.

    Attributes:
        names: Class names by class id, 0 to classes - 1.
        images: Image files, sorted by name; not read yet.
    """

    names: dict[int, str]
    images: list[Path]


@dataclass(frozen=True)
class Labels:
    """The objects of one image.

    Attributes:
        boxes_cxcywhn: (N, 4) float32, centre x, centre y, width, height, fractions of the image's width and
            height.
        class_id: (N,) int64.
    """

    boxes_cxcywhn: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]


def dataset_from_yaml(path: Path, *, split: str) -> Dataset:
    """The class names, and the images of one split, of an Ultralytics data file.

    Args:
        path: The data.yaml. Its entry `path` is relative to the file's own folder, the splits to `path`.
        split: `train`, `val` or `test`: there a folder (searched with those below it), a .txt file with one
            image a line, relative to that file, or a list of both.

    Raises:
        InputError: No such file, no data file, without that split, or a split without images.
    """
    if split not in _SPLITS:
        raise InputError(f"--split {split!r} does not exist; give {', '.join(_SPLITS[:-1])} or {_SPLITS[-1]}")
    content = _content(path)
    names = _names(content, path)
    images: list[Path] = []
    for place in _places(content, path, split):
        images += _images_in(place, path, split)
    if not images:
        raise InputError(
            f"the split {split} of {path} holds no images; "
            "it needs files that end in .jpg, .png, .bmp, .tif or .webp"
        )
    return Dataset(names=names, images=sorted(images))


def labels_of_all(dataset: Dataset) -> list[Labels]:
    """The labels of every image, in their order; an image without a label file has no objects.

    Raises:
        InputError: Not one image has a label file, not one file has an object, or one of them is damaged.
    """
    found = [labels_of(image, classes=len(dataset.names)) for image in dataset.images]
    if all(labels is None for labels in found):
        image = dataset.images[0]
        raise InputError(
            f"none of the {len(found)} images has labels: {image} needs {label_path(image)}; "
            "put a label file for each image there, as Ultralytics has them"
        )
    labelled = [_NO_LABELS if labels is None else labels for labels in found]
    if not any(len(labels.class_id) for labels in labelled):
        raise InputError(
            f"the labels of the {len(found)} images have no object, beginning with "
            f"{label_path(dataset.images[0])}; give images with labelled objects"
        )
    return labelled


def labels_of(image: Path, *, classes: int) -> Labels | None:
    """The labels of an image; None where it has no label file. Rows that stand twice count once.

    A row is `class cx cy w h`, or a polygon, `class x1 y1 x2 y2 x3 y3 ...`, of which the bounding box is taken.

    Args:
        image: Path of the image; its label file is at `label_path(image)`.
        classes: Class ids are 0 to classes - 1.

    Raises:
        InputError: A label file that cannot be read, or a row that is none; names file and line.
    """
    path = label_path(image)
    if not os.path.isfile(path):
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the labels {path} ({getattr(error, 'strerror', None) or 'no text'}); copy them again"
        ) from error
    rows = [
        _row(line.split(), f"{path}, line {number}", classes)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    if not rows:
        return _NO_LABELS
    array = np.unique(np.array(rows, np.float64), axis=0)
    return Labels(boxes_cxcywhn=array[:, 1:].astype(np.float32), class_id=array[:, 0].astype(np.int64))


def label_path(image: Path) -> Path:
    """Where an image's labels are: `labels` for the last folder `images` of its path, .txt for its suffix."""
    image = image.absolute()
    parts = list(image.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


_NO_LABELS = Labels(boxes_cxcywhn=np.zeros((0, 4), np.float32), class_id=np.zeros(0, np.int64))


def _row(fields: list[str], where: str, classes: int) -> tuple[float, ...]:
    """Class id, centre x, centre y, width, height."""
    is_polygon = len(fields) >= _LEAST_POLYGON_FIELDS and len(fields) % 2 == 1
    if len(fields) != _BOX_FIELDS and not is_polygon:
        raise InputError(
            f"{where} has {len(fields)} fields; a label is 'class cx cy w h', or a class and at least 3 points"
        )
    try:
        class_id, *coordinates = [float(field) for field in fields]
    except ValueError:
        raise InputError(f"{where}: {' '.join(fields)[:80]!r} are no numbers; correct the label") from None
    if not (class_id.is_integer() and 0 <= class_id < classes):
        raise InputError(
            f"{where}: there is no class {fields[0]}, the data file has {classes} classes; "
            f"give class ids 0 to {classes - 1}"
        )
    low, high = -_COORDINATE_TOLERANCE, 1 + _COORDINATE_TOLERANCE
    outside = next((one for one in coordinates if not low <= one <= high), None)  # nan too
    if outside is not None or (not is_polygon and min(coordinates[2:]) < 0):
        value = min(coordinates[2:]) if outside is None else outside
        raise InputError(
            f"{where}: the coordinate {value:g} is not within 0 to 1; give fractions of the image's width and height"
        )
    return (class_id, *(_bounding_box(coordinates) if is_polygon else coordinates))


def _bounding_box(points: list[float]) -> tuple[float, float, float, float]:
    """cx, cy, w, h around x1, y1, x2, y2, ..."""
    x, y = points[::2], points[1::2]
    return (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)


def _content(path: Path) -> dict[Any, Any]:
    import yaml

    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(f"{absence(path)}; give the data.yaml that the model was trained with")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the data.yaml file in it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give a readable data.yaml"
        ) from error
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: no text, or a date that is none
        place = getattr(error, "problem_mark", None)
        line = "" if place is None else f" (line {place.line + 1})"
        raise InputError(f"{path} is no YAML file{line}; give a data.yaml as Ultralytics has it") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is no data file; it needs the entries names and val, as Ultralytics' data.yaml has"
        )
    return content


def _names(content: dict[Any, Any], path: Path) -> dict[int, str]:
    names = content.get("names")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not names:
        raise InputError(f"{path} has no class names; give them as 'names', a list or 'id: name' for each")
    if sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise InputError(
            f"{path} has {len(names)} names, but not with the class ids 0 to {len(names) - 1}; number them so"
        )
    count = content.get("nc", len(names))
    if count != len(names):
        raise InputError(f"{path} says nc: {count} and has {len(names)} names; correct one of the two")
    return {index: str(names[index]) for index in range(len(names))}


def _places(content: dict[Any, Any], path: Path, split: str) -> list[Path]:
    """The folders and list files of a split."""
    given = content.get(split)
    entries: list[Any] = given if isinstance(given, list) else [given]
    root = str(content.get("path") or ".")
    if given == [] or not all(isinstance(entry, str) and entry for entry in entries):
        there = ", ".join(name for name in _SPLITS if content.get(name)) or "none"
        raise InputError(
            f"{path} has no split {split} (there: {there}); give another with --split, "
            f"or add '{split}: FOLDER' to the file"
        )
    return [_place(path.absolute().parent / root, entry) for entry in entries]


def _place(root: Path, entry: str) -> Path:
    """The entry below the root; Roboflow writes `../valid/images` for what lies beside the file."""
    place = root / entry
    if entry.startswith("../") and not os.path.exists(place) and os.path.exists(root / entry[3:]):
        place = root / entry[3:]
    return Path(os.path.realpath(place)) if os.path.exists(place) else place


def _images_in(place: Path, path: Path, split: str) -> list[Path]:
    if os.path.isdir(place):
        names = glob.glob(f"{glob.escape(str(place))}/**/*.*", recursive=True)
        return [image for image in map(Path, names) if image.suffix.lower() in SUFFIXES and image.is_file()]
    if not os.path.isfile(place):
        raise InputError(
            f"{path} names {place} for the split {split}, and there is no such file or folder; "
            "correct 'path' or the split in it"
        )
    if place.suffix.lower() != ".txt":
        raise InputError(
            f"{path} names {place} for the split {split}; give a folder, or a .txt file with an image a line"
        )
    return _images_listed(place)


def _images_listed(place: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the list of images {place}; give a text file, an image a line"
        ) from error
    return [place.parent / line for line in lines if Path(line).suffix.lower() in SUFFIXES]
