"""Images to measure with: demo scenes where nobody gave any; frames that are letterboxed beforehand."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.manifest import manifest_from_json
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ImageError, UnsupportedModelError
from trt_yolo.media.images import read_image, write_jpeg
from trt_yolo.media.sources import find_images
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

_SCENES = 16
SCENE_SIDE = 640
DEMO_SIDE = 256


def readable(data: str, tell: Callable[[str], None]) -> list[Path]:
    """The images of a file, folder or pattern that can be read; calls `tell` with a line about each of the others.

    Raises:
        InputError: There are no images of that name.
    """
    paths = []
    for path in find_images([data]):
        try:
            read_image(path)
        except ImageError as error:
            tell(f"{error} (left out)")
        else:
            paths.append(path)
    return paths


def write_scenes(folder: Path, imgsz_hw: tuple[int, int]) -> list[Path]:
    """JPEG files of demo scenes, squares as large as the longer side, in pixels."""
    paths = [folder / f"{index:02d}.jpg" for index in range(_SCENES)]
    for index, path in enumerate(paths):
        write_jpeg(path, scene(index, size=max(imgsz_hw)).image_bgr)
    return paths


def write_frames(folder: Path, frame_hw: tuple[int, int]) -> list[Path]:
    """JPEG files of demo scenes, letterboxed to a camera's size, in pixels."""
    paths = write_scenes(folder, frame_hw)
    for path, frame in zip(paths, letterboxed(paths, frame_hw, len(paths)), strict=True):
        write_jpeg(path, frame)
    return paths


def source_size_of(model: str | Path | None) -> tuple[int, int] | None:
    """Height and width of the frames of a model whose letterbox is in its graph, by the manifest beside it."""
    beside = None if model is None else Path(f"{model}.json")
    if beside is None or not os.path.isfile(beside):  # unlike Path.is_file, never raises
        return None
    try:
        return manifest_from_json(beside.read_text(), origin=str(beside)).source_hw
    except (UnsupportedModelError, OSError, ValueError):  # said by whoever loads the model
        return None


def letterboxed(paths: Sequence[Path], imgsz_hw: tuple[int, int], count: int) -> npt.NDArray[np.uint8]:
    """(count, H, W, 3) uint8 BGR: real images, letterboxed, round and round.

    Raises:
        ImageError: A file that cannot be read.
    """
    frames: npt.NDArray[np.uint8] = np.empty((count, *imgsz_hw, 3), np.uint8)
    for number, frame in enumerate(frames):
        image = read_image(paths[number % len(paths)])
        letterbox_into(image, frame, fit_letterbox(image.shape[:2], imgsz_hw))
    return frames
