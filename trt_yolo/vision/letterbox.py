"""Fits an image of any size into the model's input, and boxes back. Arrays in, arrays out.

The same geometry as Ultralytics' `LetterBox(auto=False)`: scaled to fit, centred, the rest grey 114.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

PADDING = 114


@dataclass(frozen=True)
class Letterbox:
    """How a source image lies in the model's input, all in pixels.

    Attributes:
        source_hw: Height and width of the source image.
        target_hw: Height and width of the model's input.
        resized_hw: Height and width of the scaled image, at least 1.
        top: Rows of padding above it.
        left: Columns of padding to its left.
    """

    source_hw: tuple[int, int]
    target_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    top: int
    left: int

    @functools.cached_property
    def _to_source(self) -> tuple[npt.NDArray[np.float32], ...]:
        """(4,) each: offset in the letterboxed image, its stretch, and the source's limits.

        Each axis stretches by its own: rounding the resized sides makes their scales differ.
        """
        height, width = self.source_hw
        stretch = [self.resized_hw[1] / width, self.resized_hw[0] / height]
        return (
            np.array([self.left, self.top] * 2, np.float32),
            np.array(stretch * 2, np.float32),
            np.array([width, height] * 2, np.float32),
        )


@functools.lru_cache(maxsize=1024)  # cameras send one size again and again
def fit_letterbox(source_hw: tuple[int, int], target_hw: tuple[int, int]) -> Letterbox:
    """The letterbox of a source size in a target size; an image smaller than the target is enlarged."""
    scale = min(target_hw[0] / source_hw[0], target_hw[1] / source_hw[1])
    height, width = (max(1, round(side * scale)) for side in source_hw)
    return Letterbox(
        source_hw=source_hw,
        target_hw=target_hw,
        resized_hw=(height, width),
        top=round((target_hw[0] - height) / 2 - 0.1),
        left=round((target_hw[1] - width) / 2 - 0.1),
    )


def letterboxed(image_bgr: npt.NDArray[np.uint8], target_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: the image in an array of its own, letterboxed to the target size."""
    frame = np.empty((*target_hw, 3), np.uint8)
    letterbox_into(image_bgr, frame, fit_letterbox(image_bgr.shape[:2], target_hw))
    return frame


def letterbox_into(
    image_bgr: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], letterbox: Letterbox
) -> None:
    """Writes the letterboxed image into `target`, (H, W, 3) uint8, in place and without a copy between."""
    if letterbox.resized_hw == letterbox.target_hw:
        view = target
    else:
        top, left = letterbox.top, letterbox.left
        bottom, right = top + letterbox.resized_hw[0], left + letterbox.resized_hw[1]
        target[:top] = PADDING
        target[bottom:] = PADDING
        target[top:bottom, :left] = PADDING
        target[top:bottom, right:] = PADDING
        view = target[top:bottom, left:right]
    if letterbox.resized_hw == letterbox.source_hw:
        view[:] = image_bgr
    else:
        size_wh = (letterbox.resized_hw[1], letterbox.resized_hw[0])
        cv2.resize(image_bgr, size_wh, dst=view, interpolation=cv2.INTER_LINEAR)


def boxes_to_source(boxes_xyxy: npt.NDArray[np.float32], letterbox: Letterbox) -> npt.NDArray[np.float32]:
    """(N, 4) boxes of the letterboxed image -> (N, 4) boxes of the source image, clipped to it."""
    offset, stretch, limits = letterbox._to_source
    boxes = boxes_xyxy - offset
    boxes /= stretch
    np.maximum(boxes, 0, out=boxes)
    np.minimum(boxes, limits, out=boxes)
    return boxes
