"""One way to run frames through a model, whatever runs it.

`Backend.infer` checks what it is given, fills up static batches, finishes NMS where the graph did not;
a subclass writes only `_run`. Knows no sources, no letterbox geometry and no files.
"""

from __future__ import annotations

import abc
import functools
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.manifest import DEFAULT_ROWS, Manifest
from trt_yolo.errors import InputError
from trt_yolo.vision.nms import greedy_nms, pad_rows, rows_from_head

if TYPE_CHECKING:
    from typing_extensions import Self

Frames = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]


class Output(NamedTuple):
    """What a deploy graph returns.

    Attributes:
        detections: (N, rows, 6) float32, x1 y1 x2 y2 score class, letterboxed pixels, best first,
            score 0 in unused rows.
        unconverged: (N, 1) float32; above 0 where greedy NMS must still run over the rows.
    """

    detections: Rows
    unconverged: npt.NDArray[np.float32]


class Flight(abc.ABC):
    """A batch that a backend has begun."""

    @abc.abstractmethod
    def is_done(self) -> bool:
        """Whether `finish` would not wait."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Waits until the rows are written; what the backend raises is raised here. Calling twice is fine."""


class _Landed(Flight):
    """A batch that was done when it was begun."""

    def is_done(self) -> bool:
        return True

    def finish(self) -> None:
        return


_LANDED = _Landed()


class Backend(abc.ABC):
    """A loaded model.

    Attributes:
        manifest: What the model is.
        at_once: Batches that it can have begun at the same time.
        spin_s: How long whoever waits for a batch looks before it sleeps between looks, in seconds.
        captures: Whether its warm-up captures CUDA graphs, which must not happen beside other work.
    """

    at_once = 1
    spin_s = 200e-6
    captures = False

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._frame_shape = (*manifest.frame_hw, 3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def infer(self, frames_bgr: Frames, *, conf: float, iou: float) -> Rows:
        """(N, rows, 6) float32, NMS done: x1 y1 x2 y2 score class, letterboxed pixels, best first.

        Args:
            frames_bgr: (N, H, W, 3) uint8, letterboxed; N from 1 to the model's largest batch.
            conf: Scores must be above it, 0 to 1.
            iou: NMS drops a row that overlaps a better one of its class by more, 0 to 1.

        Raises:
            InputError: Another shape or type, or a batch too large.
        """
        self._check(frames_bgr)
        count, smallest = len(frames_bgr), self.manifest.batch.minimum
        if count < smallest:
            filling = np.zeros((smallest - count, *frames_bgr.shape[1:]), np.uint8)
            frames_bgr = np.concatenate([frames_bgr, filling])
        output = self._run(frames_bgr, conf, iou)
        detections = output.detections[:count]
        settle(detections, output.unconverged, iou)
        return detections

    def infer_into(self, frames_bgr: Frames, rows: Rows, *, count: int, conf: float, iou: float) -> None:
        """The same as `infer`, from memory that stays where it is into memory that stays where it is.

        A worker calls it with its slots, the same few again and again: a backend may keep what it prepares
        for an address. Neither array is kept after `close`.

        Args:
            frames_bgr: (batch, H, W, 3) uint8, contiguous, letterboxed; what fills up a static batch is set to 0.
            rows: (batch, rows, 6) float32, contiguous; the first `count` are written.
            count: Frames that are there, from 1; batch may be larger.
            conf: Scores must be above it, 0 to 1.
            iou: NMS drops a row that overlaps a better one of its class by more, 0 to 1.

        Raises:
            InputError: Another shape or type, or a batch too large.
        """
        self._check(frames_bgr[:count])
        run = max(count, self.manifest.batch.minimum)
        frames_bgr[count:run] = 0  # not what an earlier batch left there
        unconverged = self._run_into(frames_bgr[:run], rows[:run], conf, iou)
        settle(rows[:count], unconverged, iou)

    def begin_into(self, frames_bgr: Frames, rows: Rows, *, count: int, conf: float, iou: float) -> Flight:
        """The same as `infer_into`, begun: both arrays belong to the backend until the flight is finished.

        At most `at_once` may be under way. Here it is done when this returns.
        """
        self.infer_into(frames_bgr, rows, count=count, conf=conf, iou=iou)
        return _LANDED

    def bare_call(self, frames_bgr: Frames, *, conf: float, iou: float) -> Callable[[], object]:
        """A call that runs the model on those frames and waits for it, with as little around it as there can be.

        What a bench compares with. The frames stay what they are; nothing comes back.
        """
        return functools.partial(self.infer, frames_bgr, conf=conf, iou=iou)

    def timed_parts(self, frames_bgr: Frames, *, conf: float, iou: float) -> tuple[float, float, float]:
        """What a batch takes in three parts, one after another, in milliseconds.

        To where the engine reads it; in the engine; and its rows back. Here all of it is the engine's: the frames
        are read, and the rows written, where they lie.
        """
        start_s = time.perf_counter()
        self._run(frames_bgr, conf, iou)
        return 0.0, (time.perf_counter() - start_s) * 1e3, 0.0

    def adopt(self, memory: npt.NDArray[np.uint8]) -> None:  # noqa: B027  most backends have no use for it
        """The memory that a worker's slots lie in, from now until `close`: a GPU can page-lock it.

        Args:
            memory: (bytes,) uint8, from a page's start.
        """

    def warm_up(self, slots: Sequence[tuple[Frames, Rows]]) -> None:
        """Does now what is done only once, so that no real frame waits for it; what slots hold is written over.

        Args:
            slots: Frames and rows of each slot of a worker, from memory that was adopted.
        """
        frames, rows = slots[0]
        self.infer_into(frames, rows, count=self.manifest.batch.minimum, conf=0.25, iou=0.7)

    @property
    def about(self) -> dict[str, str]:
        """How it was laid out, for people: shown in `stats`."""
        return {}

    def close(self) -> None:  # noqa: B027  a backend may hold nothing
        """Gives back what the backend holds; calling twice is fine."""

    @abc.abstractmethod
    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        """The model's output for a batch whose shape and size have been checked."""

    def _run_into(self, frames_bgr: Frames, rows: Rows, conf: float, iou: float) -> npt.NDArray[np.float32]:
        """Writes `Output.detections` into `rows` and returns `Output.unconverged`; here with a copy."""
        output = self._run(frames_bgr, conf, iou)
        rows[:] = output.detections
        return output.unconverged

    def _check(self, frames_bgr: Frames) -> None:
        expected = self._frame_shape
        if frames_bgr.dtype != np.uint8 or frames_bgr.shape[1:] != expected:
            raise InputError(
                f"frames are {frames_bgr.dtype} {frames_bgr.shape}; "
                f"needed: uint8 (N, {expected[0]}, {expected[1]}, 3), BGR, "
                + ("letterboxed" if self.manifest.source_hw is None else "as the camera gives them")
            )
        if not 1 <= len(frames_bgr) <= self.manifest.batch.maximum:
            raise InputError(
                f"a batch of {len(frames_bgr)} frames; this model takes 1 to {self.manifest.batch.maximum}"
            )


def settle(detections: Rows, unconverged: npt.NDArray[np.float32], iou: float) -> None:
    """Finishes NMS, in place, where the graph did not: (N, rows, 6) rows, (at least N, 1) what the graph says."""
    for index in np.flatnonzero(unconverged[: len(detections), 0]):
        rows = detections[index]
        detections[index] = pad_rows(greedy_nms(rows[rows[:, 4] > 0], iou=iou), len(rows))


def images_for_head(frames_bgr: Frames) -> npt.NDArray[np.float32]:
    """(N, 3, H, W) float32 RGB of 0 to 1, what a head graph takes, of (N, H, W, 3) uint8 BGR frames."""
    return np.asarray(cv2.dnn.blobFromImages(list(frames_bgr), 1 / 255, swapRB=True), np.float32)


def output_from_head(
    head: npt.NDArray[np.float32], *, conf: float, iou: float, rows: int = DEFAULT_ROWS
) -> Output:
    """What a deploy graph would have returned for a head graph's (N, 4 + classes, anchors) output."""
    detections = [
        pad_rows(greedy_nms(rows_from_head(image, conf=conf, limit=rows), iou=iou), rows) for image in head
    ]
    return Output(np.stack(detections), np.zeros((len(head), 1), np.float32))
