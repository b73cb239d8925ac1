"""The pipeline in the caller's own process: image -> letterbox -> backend -> `Detections`.

Enters: images. Leaves: one `Detections` an image. Knows no screens, no files to write and no exports.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import Backend
from trt_yolo.detections import Detections
from trt_yolo.errors import ImageError, InputError
from trt_yolo.manifest import Manifest
from trt_yolo.media.images import read_image
from trt_yolo.vision.letterbox import Letterbox, boxes_to_source, fit_letterbox, letterbox_into

if TYPE_CHECKING:
    from typing_extensions import Self

Image = npt.NDArray[np.uint8]

DEFAULT_CONF = 0.25
DEFAULT_IOU = 0.7
DEFAULT_MAX_DET = 300


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Which detections to return.

    Attributes:
        conf: Confidence must be above it, 0 to 1.
        iou: NMS drops a box that overlaps a better one of its class by more, 0 to 1.
        classes: Only these class ids; None for all.
        max_det: The most detections an image.

    Raises:
        InputError: A value outside its range.
    """

    conf: float = DEFAULT_CONF
    iou: float = DEFAULT_IOU
    classes: Collection[int] | None = None
    max_det: int = DEFAULT_MAX_DET

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; give a number from 0 to 1, such as 0.25")
        if self.max_det < 1:
            raise InputError(f"max_det is {self.max_det}; give the most detections an image, at least 1")


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """What a batch took, in milliseconds: letterbox, inference, and rows to detections."""

    letterbox_ms: float
    infer_ms: float
    post_ms: float


class Model:
    """A loaded model, called with images. Safe to call from several threads: they take turns.

    Made by `trt_yolo.load`. A context manager; `close` gives back what the backend holds.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = threading.Lock()
        batch = backend.manifest.batch.maximum
        self._frames = np.empty((batch, *backend.manifest.imgsz_hw, 3), np.uint8)

    @property
    def manifest(self) -> Manifest:
        """What the model is: names, image size, batch, precision."""
        return self._backend.manifest

    @property
    def names(self) -> dict[int, str]:
        """Class names by class id."""
        return self.manifest.names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what the backend holds; calling twice is fine."""
        self._backend.close()

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; the first overload wins
        self,
        source: Image | str | Path,
        *,
        conf: float = ...,
        iou: float = ...,
        classes: Collection[int] | None = ...,
        max_det: int = ...,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        source: Sequence[Image | str | Path],
        *,
        conf: float = ...,
        iou: float = ...,
        classes: Collection[int] | None = ...,
        max_det: int = ...,
    ) -> list[Detections]: ...

    def __call__(
        self,
        source: Image | str | Path | Sequence[Image | str | Path],
        *,
        conf: float = DEFAULT_CONF,
        iou: float = DEFAULT_IOU,
        classes: Collection[int] | None = None,
        max_det: int = DEFAULT_MAX_DET,
    ) -> Detections | list[Detections]:
        """The detections in an image, or a list of them for a list of images.

        Args:
            source: An image, (H, W, 3) uint8 BGR, or the path of an image file; or a list of those.
            conf: Confidence must be above it, 0 to 1.
            iou: NMS drops a box that overlaps a better one of its class by more, 0 to 1.
            classes: Only these class ids; None for all.
            max_det: The most detections an image.

        Raises:
            ImageError: A file that is no image, or an array of another shape or type.
            InputError: A threshold outside its range.
        """
        thresholds = Thresholds(conf=conf, iou=iou, classes=classes, max_det=max_det)
        if not isinstance(source, list | tuple):
            return self.run_batch([_pixels(source)], thresholds)[0][0]
        found: list[Detections] = []
        size = self.manifest.batch.maximum
        for start in range(0, len(source), size):
            images = [_pixels(one) for one in source[start : start + size]]
            found += self.run_batch(images, thresholds)[0]
        return found

    def run_batch(
        self, images: Sequence[Image], thresholds: Thresholds
    ) -> tuple[list[Detections], StageTimes]:
        """The detections of at most one batch of images, and what each stage took.

        Args:
            images: (H, W, 3) uint8 BGR each; at most the model's largest batch.
            thresholds: Which detections to return.
        """
        with self._turn:
            start = time.perf_counter()
            letterboxes = [fit_letterbox(image.shape[:2], self.manifest.imgsz_hw) for image in images]
            frames = self._frames[: len(images)]
            for image, frame, letterbox in zip(images, frames, letterboxes, strict=True):
                letterbox_into(image, frame, letterbox)
            filled = time.perf_counter()
            rows = self._backend.infer(frames, conf=thresholds.conf, iou=thresholds.iou)
            inferred = time.perf_counter()
        found = [
            self._detections(image_rows, letterbox, thresholds)
            for image_rows, letterbox in zip(rows, letterboxes, strict=True)
        ]
        times = StageTimes(
            letterbox_ms=(filled - start) * 1e3,
            infer_ms=(inferred - filled) * 1e3,
            post_ms=(time.perf_counter() - inferred) * 1e3,
        )
        return found, times

    def _detections(
        self, rows: npt.NDArray[np.float32], letterbox: Letterbox, thresholds: Thresholds
    ) -> Detections:
        chosen = rows[rows[:, 4] > 0]
        if thresholds.classes is not None:
            chosen = chosen[np.isin(chosen[:, 5], list(thresholds.classes))]
        chosen = chosen[: thresholds.max_det]
        return Detections(
            xyxy=boxes_to_source(chosen[:, :4], letterbox),
            confidence=chosen[:, 4].copy(),
            class_id=chosen[:, 5].astype(np.int64),
            names=self.names,
            image_hw=letterbox.source_hw,
        )


def _pixels(source: object) -> Image:
    if isinstance(source, str | Path):
        return read_image(Path(source))
    if not isinstance(source, np.ndarray):
        raise ImageError(f"a {type(source).__name__} is no image; give a path or a (H, W, 3) uint8 BGR array")
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
        hint = "cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) makes colour of grey, (image >> 8).astype('uint8') 8 bits"
        raise ImageError(
            f"an image array is {source.dtype} {source.shape}; needed: uint8 (H, W, 3) BGR ({hint})"
        )
    return source
