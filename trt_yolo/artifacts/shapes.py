"""Image sizes and batch ranges as a person writes them, checked once.

Enters: `640`, `384x640`, `8`, `1:16`. Leaves: numbers. Knows no files and no models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trt_yolo.errors import InputError, UnsupportedModelError

_MAX_BATCH = 1024
MAX_SIDE = 8192
_STRIDES = (2, 4, 8, 16, 32, 64, 128)  # of detection levels that a head may have


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes that a graph takes: one where `minimum == maximum` (static), else all between."""

    minimum: int
    maximum: int

    @property
    def is_static(self) -> bool:
        """Whether the graph has one fixed batch size."""
        return self.minimum == self.maximum

    def check(self, batch: int) -> None:
        """Raises InputError for a batch size that the graph does not take."""
        if not self.minimum <= batch <= self.maximum:
            raise InputError(f"a batch of {batch}, and this model takes {self}; give one that it takes")

    def __str__(self) -> str:
        return str(self.minimum) if self.is_static else f"{self.minimum}:{self.maximum}"


def anchor_count(imgsz_hw: tuple[int, int], strides: Sequence[int]) -> int:
    """Anchors of a head: one for each cell of each level, a level for each stride."""
    return sum((imgsz_hw[0] // stride) * (imgsz_hw[1] // stride) for stride in strides)


def strides_of_anchors(imgsz_hw: tuple[int, int], anchors: int) -> tuple[int, ...] | None:
    """The strides of the levels that have so many anchors together; None where no set of levels has.

    A level has about four times the anchors of the next, so the largest that fits is always in the set.
    """
    strides, left = [], anchors
    for stride in _STRIDES:
        if 0 < (cells := anchor_count(imgsz_hw, [stride])) <= left:
            strides.append(stride)
            left -= cells
    return None if left or not strides else tuple(strides)


def check_channels(channels: int | str, *, origin: str) -> None:
    """Refuses a model whose input does not have three channels; a text is a dimension that is not known.

    Raises:
        UnsupportedModelError: Another number.
    """
    if isinstance(channels, int) and channels != 3:
        raise UnsupportedModelError(
            f"{origin} takes images of {channels} channel{'' if channels == 1 else 's'}; only 3 (colour) are "
            "supported here; train it on colour images (grey ones can be read as colour)"
        )


def parse_batch(text: str) -> BatchRange:
    """The batch range of `8` (static) or `1:16` (dynamic).

    Raises:
        InputError: Not of that form, below 1, above 1024, or falling.
    """
    match = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", text.strip())
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high <= _MAX_BATCH:
        raise InputError(
            f"--batch {text!r} is no batch size; give one number from 1 to {_MAX_BATCH} for a static batch, "
            "such as 8, or a rising range for a dynamic one, such as 1:16"
        )
    return BatchRange(low, high)


def parse_imgsz(text: str) -> tuple[int, int]:
    """Height and width in pixels of `640` (square) or `384x640` (height x width).

    The model's largest stride, usually 32, is not known here: multiples of 8 pass.

    Raises:
        InputError: Not of that form, no multiples of 8, or above 8192.
    """
    match = re.fullmatch(r"(\d{1,6})(?:[x,](\d{1,6}))?", text.strip().lower())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(0 < side <= MAX_SIDE and side % 8 == 0 for side in (height, width)):
        near = ""
        if height > 0 and width > 0 and max(height, width) <= MAX_SIDE:
            near = f"; the nearest are {_multiples(height, width)}"
        raise InputError(
            f"--imgsz {text!r} is no image size; give multiples of 32 up to {MAX_SIDE}, "
            f"such as 640 or 384x640 (height x width){near}"
        )
    return height, width


def parse_source_size(text: str) -> tuple[int, int]:
    """Height and width in pixels of a camera's frames, `1080x1920` (height x width).

    Raises:
        InputError: Not of that form, or above 8192.
    """
    match = re.fullmatch(r"(\d{1,6})[x,](\d{1,6})", text.strip().lower())
    height, width = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(0 < side <= MAX_SIDE for side in (height, width)):
        raise InputError(
            f"--source-size {text!r} is no frame size; give height x width up to {MAX_SIDE}, such as 1080x1920"
        )
    return height, width


def _multiples(height: int, width: int) -> str:
    down = [max(32, side // 32 * 32) for side in (height, width)]
    up = [-(-side // 32) * 32 for side in (height, width)]
    texts = [str(h) if h == w and height == width else f"{h}x{w}" for h, w in (down, up)]
    return " and ".join(dict.fromkeys(texts))
