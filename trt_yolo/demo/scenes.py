"""Generated scenes of handwritten digits: images and labels, always the same for the same seed.

Enters: a seed. Leaves: a `_Scene`, or a folder of them in the YOLO data layout.
The glyphs are the UCI "Optical Recognition of Handwritten Digits" set (E. Alpaydin, C. Kaynak, 1998,
CC BY 4.0) as scikit-learn's `load_digits` ships it: 1,797 digits of 8x8 pixels, 17 grey levels.
The module does not know models, exports or letterboxing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.media.images import write_jpeg

Split = Literal["train", "val"]

NAMES: dict[int, str] = {digit: str(digit) for digit in range(10)}
_HELD_OUT_GLYPHS = 297  # the last ones, of other writers: val scenes hold no glyph that train scenes hold
_SPLIT_SEED: dict[Split, int] = {"train": 0, "val": 1}
_GLYPH_PX = 64


@dataclass(frozen=True)
class _Scene:
    """One picture and what is in it.

    Attributes:
        image_bgr: (H, W, 3) uint8.
        boxes_xyxy: (N, 4) float32, x1 y1 x2 y2 in pixels, tight around the visible ink of each digit.
        class_id: (N,) int64, the digit 0 to 9.
    """

    image_bgr: npt.NDArray[np.uint8]
    boxes_xyxy: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]


def scene(index: int, *, split: Split = "val", size: int = 256) -> _Scene:
    """The scene of that number: `size` x `size` pixels, 3 to 10 digits on a textured background."""
    rng = np.random.default_rng([_SPLIT_SEED[split], index, size])
    image = _background(rng, size)
    boxes: list[tuple[int, int, int, int]] = []
    class_id: list[int] = []
    for _ in range(int(rng.integers(3, 11))):
        ink, digit = _glyph(rng, split, size)
        box = _place(rng, ink.shape[:2], boxes, size)
        if box is not None:
            _paint(rng, image, ink, box)
            boxes.append(box)
            class_id.append(digit)
    noise = rng.normal(0, rng.uniform(1, 7), image.shape)
    return _Scene(
        image_bgr=np.clip(image + noise, 0, 255).astype(np.uint8),
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        class_id=np.array(class_id, np.int64),
    )


def write_yolo_dataset(folder: Path, *, train: int = 1000, val: int = 200, size: int = 256) -> Path:
    """The path of the `data.yaml` of a new dataset of generated scenes in Ultralytics' layout."""
    splits: tuple[tuple[Split, int], ...] = (("train", train), ("val", val))
    for split, count in splits:
        if not count:
            continue
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            one = scene(index, split=split, size=size)
            write_jpeg(images / f"{index:05d}.jpg", one.image_bgr)
            (labels / f"{index:05d}.txt").write_text(_yolo_label(one))
    data = folder / "data.yaml"
    data.write_text(_data_yaml(folder, "train" if train else "val"))
    return data


def holds_other_files(folder: Path) -> bool:
    """Whether a dataset there would be written among, or over, files that `write_yolo_dataset` did not make."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    data = folder / "data.yaml"
    return not data.is_file() or data.read_text(errors="replace") not in (
        _data_yaml(folder, "train"),
        _data_yaml(folder, "val"),
    )


def _data_yaml(folder: Path, train: Split) -> str:
    names = "".join(f"  {key}: '{name}'\n" for key, name in NAMES.items())
    return f"path: {folder.resolve()}\ntrain: images/{train}\nval: images/val\nnames:\n{names}"


@functools.cache
def _digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """(1797, 8, 8) glyphs of 0 to 16 and their (1797,) labels."""
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as data:
        return data["glyphs"], data["labels"]


def _background(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    """(size, size, 3) float32: octaves of smooth colour noise, then a few lines and discs as distractors."""
    image = np.full((size, size, 3), rng.uniform(40, 215, 3), np.float32)
    for cells in (2, 5, 11, 40):
        octave = rng.normal(0, 26 / cells**0.4, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(octave, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 9))):
        colour = rng.uniform(0, 255, 3).tolist()
        start, end = rng.integers(0, size, (2, 2)).tolist()
        width = int(rng.integers(1, 4))
        layer = image.copy()
        if rng.random() < 0.6:
            cv2.line(layer, start, end, colour, width, cv2.LINE_AA)
        else:
            cv2.circle(layer, start, int(rng.integers(size // 20, size // 3)), colour, -1, cv2.LINE_AA)
        image += np.float32(rng.uniform(0.2, 0.6)) * (layer - image)
    return np.clip(image, 0, 255)


def _glyph(rng: np.random.Generator, split: Split, size: int) -> tuple[npt.NDArray[np.float32], int]:
    """(h, w) float32 ink coverage of 0 to 1, cropped tight, and the digit it shows."""
    glyphs, labels = _digits()
    held_out = len(glyphs) - _HELD_OUT_GLYPHS
    choice = int(rng.integers(0, held_out) if split == "train" else rng.integers(held_out, len(glyphs)))
    grey = np.pad(glyphs[choice].astype(np.float32) / 16, 1)  # the border keeps strokes from being cut flat
    height = size * float(np.exp(rng.uniform(np.log(0.11), np.log(0.5))))
    scale = height / _GLYPH_PX
    large = cv2.resize(grey, (_GLYPH_PX, _GLYPH_PX), interpolation=cv2.INTER_CUBIC)
    canvas = int(height * 1.9) + 4
    angle = np.deg2rad(rng.uniform(-25, 25))
    cos, sin, shear = np.cos(angle), np.sin(angle), rng.uniform(-0.15, 0.15)
    stretch = np.diag([scale * rng.uniform(0.8, 1.1), scale])
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) @ stretch
    shift = canvas / 2 - matrix @ np.full(2, _GLYPH_PX / 2)
    affine = np.hstack([matrix, shift[:, None]])
    warped = cv2.warpAffine(large, affine, (canvas, canvas), flags=cv2.INTER_AREA)
    ink = np.clip((warped - rng.uniform(0.25, 0.4)) / 0.2, 0, 1)
    rows, columns = np.nonzero(ink.max(1) > 0.5)[0], np.nonzero(ink.max(0) > 0.5)[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(labels[choice])


def _place(
    rng: np.random.Generator, size_hw: tuple[int, ...], taken: list[tuple[int, int, int, int]], size: int
) -> tuple[int, int, int, int] | None:
    """A place for a box of that size that covers no earlier box by more than a third, or None."""
    height, width = size_hw
    if height >= size or width >= size:
        return None
    for _ in range(20):
        x1, y1 = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
        box = (x1, y1, x1 + width, y1 + height)
        if all(_covered(box, other) < 0.33 for other in taken):
            return box
    return None


def _covered(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height / smaller


def _paint(
    rng: np.random.Generator,
    image: npt.NDArray[np.float32],
    ink: npt.NDArray[np.float32],
    box: tuple[int, int, int, int],
) -> None:
    """Blends the digit into the image, in a colour that stands out from what is behind it."""
    x1, y1, x2, y2 = box
    region = image[y1:y2, x1:x2]
    behind = region.mean(axis=(0, 1))
    colour = behind
    while abs(float(colour.mean() - behind.mean())) < 55:
        colour = rng.uniform(0, 255, 3)
    region += (ink * rng.uniform(0.85, 1.0))[..., None].astype(np.float32) * (colour - region)


def _yolo_label(one: _Scene) -> str:
    """Label lines `class x y w h`, centre and size as fractions of the image."""
    height, width = one.image_bgr.shape[:2]
    lines = []
    for (x1, y1, x2, y2), digit in zip(one.boxes_xyxy.tolist(), one.class_id.tolist(), strict=True):
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{digit} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    return "".join(lines)
