"""Detections drawn on an image. Arrays in, arrays out."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.detections import Detections

_Colour = tuple[int, int, int]


def draw_detections(image_bgr: npt.NDArray[np.uint8], detections: Detections) -> npt.NDArray[np.uint8]:
    """A copy of the (H, W, 3) uint8 image with boxes, class names and confidences on it, best on top."""
    canvas = np.ascontiguousarray(image_bgr).copy()
    side = max(canvas.shape[:2])
    thickness = max(1, round(side / 400))
    for box, confidence, class_id in reversed(list(detections)):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        colour = class_colour(class_id)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
        _label(canvas, f"{detections.name(class_id)} {confidence:.2f}", (x1, y1), colour, scale=side / 1400)
    return canvas


def class_colour(class_id: int) -> _Colour:
    """A BGR colour for a class, far from its neighbours': hues a golden angle apart."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.618034 % 1, 0.75, 0.9)
    return round(blue * 255), round(green * 255), round(red * 255)


def _label(
    canvas: npt.NDArray[np.uint8], text: str, corner_xy: tuple[int, int], colour: _Colour, *, scale: float
) -> None:
    """Writes the text on a filled box above the corner, or below it at the upper edge."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.35, scale)
    (width, height), base = cv2.getTextSize(text, font, scale, 1)
    left = max(0, min(corner_xy[0], canvas.shape[1] - width - 2))
    bottom = corner_xy[1] if corner_xy[1] > height + base else corner_xy[1] + height + base
    cv2.rectangle(canvas, (left, bottom - height - base), (left + width + 2, bottom), colour, -1)
    ink = (255, 255, 255) if sum(colour) < 400 else (0, 0, 0)
    cv2.putText(canvas, text, (left + 1, bottom - base + 1), font, scale, ink, 1, cv2.LINE_AA)
