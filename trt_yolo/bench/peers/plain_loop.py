"""What a person writes by hand around an exported graph: read, letterbox, feed, boxes in source pixels.

Enters: image files, what a graph gave. Leaves: what a graph takes, rows. Shared by the peers that run the artifact;
knows nothing of what runs it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import Output, images_for_head, output_from_head, settle
from trt_yolo.bench.peers import Rows
from trt_yolo.errors import ImageError
from trt_yolo.runtime.job import DEFAULT_CONF, DEFAULT_IOU, DEFAULT_MAX_DET
from trt_yolo.vision.letterbox import Letterbox, boxes_to_source, fit_letterbox, letterbox_into

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """How a graph is fed, and what its outputs mean.

    Attributes:
        imgsz_hw: Height and width of its input, in pixels.
        batch: Images of one inference.
        dtype: Of its first input: uint8 in a deploy graph, a float in a head graph.
    """

    imgsz_hw: tuple[int, int]
    batch: int
    dtype: npt.DTypeLike

    @property
    def is_head(self) -> bool:
        """Whether decode and NMS are left to the host."""
        return np.dtype(self.dtype) != np.uint8

    def fed(self, images_bgr: Sequence[Image]) -> tuple[list[npt.NDArray[Any]], list[Letterbox]]:
        """The graph's inputs, in order, and how each image lies in them; what fills up a batch is black."""
        letterboxes = [fit_letterbox(image.shape[:2], self.imgsz_hw) for image in images_bgr]
        frames: Image = np.zeros((self.batch, *self.imgsz_hw, 3), np.uint8)
        for image, frame, letterbox in zip(images_bgr, frames, letterboxes, strict=False):
            letterbox_into(image, frame, letterbox)
        if self.is_head:
            return [images_for_head(frames).astype(self.dtype, copy=False)], letterboxes
        return [
            frames,
            np.array([DEFAULT_CONF], np.float32),
            np.array([DEFAULT_IOU], np.float32),
        ], letterboxes

    def found(self, outputs: Sequence[npt.NDArray[Any]], letterboxes: Sequence[Letterbox]) -> list[Rows]:
        """(N, 6) rows of each image, source pixels, of what the graph gave; nothing of the outputs is kept."""
        if self.is_head:
            head = outputs[0].astype(np.float32, copy=False)
            output = output_from_head(head, conf=DEFAULT_CONF, iou=DEFAULT_IOU)
        else:
            output = Output(np.array(outputs[0]), outputs[1])
        detections = output.detections[: len(letterboxes)]
        settle(detections, output.unconverged, DEFAULT_IOU)
        return [_to_source(rows, letterbox) for rows, letterbox in zip(detections, letterboxes, strict=True)]


def read_plainly(path: str) -> Image:
    """(H, W, 3) uint8 BGR.

    Raises:
        ImageError: OpenCV cannot read it.
    """
    image = cv2.imread(path)
    if image is None:
        raise ImageError(f"OpenCV cannot read {path}; leave it out")
    return np.asarray(image, np.uint8)


def in_batches(paths: Iterable[str], batch: int) -> Iterator[list[str]]:
    """The paths in lists of so many; the last one may be shorter."""
    rest = iter(paths)
    while some := list(itertools.islice(rest, batch)):
        yield some


def _to_source(rows: Rows, letterbox: Letterbox) -> Rows:
    rows = rows[: min(np.count_nonzero(rows[:, 4]), DEFAULT_MAX_DET)]
    return np.concatenate([boxes_to_source(rows[:, :4], letterbox), rows[:, 4:]], axis=1)
