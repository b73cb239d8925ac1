"""One image on its way: what was asked for, where it has got to, how it ended.

Enters: an image and thresholds. Leaves: `Detections` or an error, exactly once. Knows no slots and no workers.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_yolo.detections import Detections
from trt_yolo.errors import FrameError, ImageError, InputError
from trt_yolo.media.images import Decode, read_image
from trt_yolo.media.sources import check_source
from trt_yolo.vision.letterbox import Letterbox, boxes_to_source

Image = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]

DEFAULT_CONF = 0.25
DEFAULT_IOU = 0.7
DEFAULT_MAX_DET = 300

_ENDING = threading.Lock()  # of all jobs: it is held for two lines

_MOST_CRASHES = 2
_MOST_LOSSES = 3


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Which detections to return.

    Attributes:
        conf: Confidence must be above it, 0 to 1.
        iou: NMS drops a box that overlaps a better one of its class by more, 0 to 1.
        classes: Only these class ids; None for all.
        max_det: The most detections an image.

    Raises:
        InputError: A value of another type, or outside its range.
    """

    conf: float = DEFAULT_CONF
    iou: float = DEFAULT_IOU
    classes: Collection[int] | None = None
    max_det: int = DEFAULT_MAX_DET

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.floating) or not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; give a number from 0 to 1, such as 0.25")
        if not isinstance(self.max_det, int | np.integer) or self.max_det < 1:
            raise InputError(f"max_det is {self.max_det}; give the most detections an image, at least 1")
        if self.classes is not None:
            object.__setattr__(self, "classes", _class_ids(self.classes))


def _class_ids(classes: Collection[int]) -> tuple[int, ...]:
    """The ids, also of something that can be gone through only once."""
    try:
        return tuple(operator.index(one) for one in classes)
    except TypeError as error:
        raise InputError(
            f"classes is {classes!r}; give class ids, such as [0, 2] (names are in model.names)"
        ) from error


@dataclass(frozen=True)
class StageTimes:
    """What an image took in each stage, in milliseconds.

    Attributes:
        decode: The file read and decoded; 0 for an array.
        letterbox: Scaled into its slot.
        queue: In its slot, until a worker took the batch.
        infer: The whole batch in the backend.
        post: Rows copied out of the slot and made into `Detections`.
    """

    decode: float = 0.0
    letterbox: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    post: float = 0.0


@dataclass(frozen=True)
class Death:
    """Why a worker is gone.

    Attributes:
        cause: In words.
        from_outside: It was killed by somebody else, or may have been: that need not be the frame's fault.
        is_corrupt: Something wrote to its memory: what lies there is no answer.
    """

    cause: str
    from_outside: bool = False
    is_corrupt: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class VideoFrame:
    """One frame of a video file, or why the file has no more.

    Attributes:
        path: The file.
        number: Its place among the frames that could be decoded, from 0; None where `error` is the file's.
        image: (H, W, 3) uint8 BGR.
        error: What is wrong with the file.
    """

    path: Path
    number: int | None = None
    image: Image | None = None
    error: ImageError | None = None


@dataclass(eq=False, slots=True)
class Group:
    """Jobs that make one batch: it leaves when all of them are in its slot.

    Attributes:
        size: How many there are.
    """

    size: int


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One image on its way.

    Attributes:
        source: (H, W, 3) uint8 BGR, or the path of an image file.
        thresholds: Which detections to return.
        name: What errors call it; empty: by its path, or its place.
        on_end: Called once, from any thread, when `detections` or `error` is there.
        order: Its place among those of its stream.
        index: Its place in its source.
        video: The file that it is a frame of.
        number: Its place in that video.
        group: The batch that it belongs to, if that was said.
        keep_image: Whether `image` stays after the end.
        image: The source's pixels while they are needed.
        frame: The letterboxed pixels, saved from the slot of a worker that ended.
        alone: Run it in a batch of its own, to see whether it is the one.
        letterbox: How the image lies in the frame.
        detections: What was found.
        error: Why there is none.
        stages_ms: What each stage took, in the order of `StageTimes`.
    """

    source: Image | Path
    thresholds: Thresholds
    name: str = ""
    on_end: Callable[[Job], None] = lambda _: None
    order: int = 0
    index: int = 0
    video: Path | None = None
    number: int | None = None
    group: Group | None = None
    keep_image: bool = False
    image: Image | None = None
    frame: Image | None = None
    alone: bool = False
    letterbox: Letterbox | None = None
    detections: Detections | None = None
    error: Exception | None = None
    stages_ms: tuple[float, ...] | None = None
    decode_ms: float = 0.0
    letterbox_ms: float = 0.0
    crashes: int = 0
    losses: int = 0
    ended: bool = False

    @property
    def label(self) -> str:
        """What errors call it."""
        if self.video is not None and not self.name:
            return f"{self.video}, frame {self.number}"
        return self.name or (str(self.source) if isinstance(self.source, Path) else f"frame {self.index}")

    def load(self, decode: Decode | None = None) -> Image:
        """The source's pixels; a file is decoded once, and kept until `release_pixels`.

        Args:
            decode: What decodes a file; None: the processor.

        Raises:
            ImageError: The file is no image.
        """
        if self.image is None:
            if isinstance(self.source, Path):
                start = time.perf_counter()
                self.image = read_image(self.source, decode)
                self.decode_ms = (time.perf_counter() - start) * 1e3
            else:
                self.image = self.source
        return self.image

    def release_pixels(self) -> None:
        """Drops the source's pixels, which are in a slot now, unless they are wanted at the end."""
        if not self.keep_image:
            self.image = None
            if isinstance(self.source, np.ndarray):
                self.source = _GONE

    def succeed(self, detections: Detections, stages_ms: tuple[float, ...]) -> None:
        """Ends the job with what was found; does nothing if it has ended."""
        if self._may_end():
            self.detections, self.stages_ms = detections, stages_ms
            self._end()

    def fail(self, error: Exception) -> None:
        """Ends the job with an error; does nothing if it has ended."""
        if self._may_end():
            self.error = error
            self._end()

    def blame(self, death: Death) -> FrameError | None:
        """Counts a worker that ended while it ran this job; an error when that was once too often.

        A worker that was killed from outside counts less: chance can hit the same frame twice.
        """
        self.alone = True
        self.losses += 1
        self.crashes += not death.from_outside
        if self.crashes < _MOST_CRASHES and self.losses < _MOST_LOSSES:
            return None
        return FrameError(
            f"{self.label} brought down {self.losses} workers, the last one {death.cause}; "
            "it is not tried again: look at this frame, and at the model with --workers 0"
        )

    def _may_end(self) -> bool:
        """Whether it has not ended yet; true once, for one thread."""
        with _ENDING:
            was, self.ended = self.ended, True
        return not was

    def _end(self) -> None:
        self.frame = None
        self.release_pixels()
        self.on_end(self)


_GONE = np.zeros((0, 0, 3), np.uint8)


def source_of(given: object) -> Image | Path:
    """What was given as an image, checked: a path, or an array of pixels.

    Raises:
        ImageError: Neither, or an array of another shape or type.
        InputError: A name that stands for no file: an address, a camera.
    """
    if isinstance(given, str | Path):
        check_source(given)
        return Path(given)
    if not isinstance(given, np.ndarray):
        raise ImageError(f"a {type(given).__name__} is no image; give a path or a (H, W, 3) uint8 BGR array")
    if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3 or 0 in given.shape:
        hint = "cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) makes colour of grey, (image >> 8).astype('uint8') 8 bits"
        raise ImageError(
            f"an image array is {given.dtype} {given.shape}; needed: uint8 (H, W, 3) BGR ({hint})"
        )
    return given


def detections_of_batch(
    rows: Rows, jobs: Sequence[Job | None], names: Mapping[int, str]
) -> list[Detections | None]:
    """The detections of each job of a batch, in pixels of its source; None where there is no job.

    A numpy call on a few boxes costs as much as on many: the batch is converted as one array, cut up at last.

    Args:
        rows: (N, rows, 6) float32, x1 y1 x2 y2 score class, letterboxed pixels, best first, score 0 in unused
            rows; not kept.
        jobs: N, of which some may be None; the others know their letterbox.
        names: Class names by class id.
    """
    chosen = [_chosen(rows[index], job) for index, job in enumerate(jobs)]
    letterboxes = [job.letterbox for job in jobs if job is not None]
    flat = np.concatenate(chosen)  # (all of the batch, 6), a copy
    if letterboxes and all(one is letterboxes[0] for one in letterboxes):
        boxes_xyxy = boxes_to_source(flat[:, :4], _known(letterboxes[0]))
    else:
        boxes_xyxy = np.concatenate(
            [
                boxes_to_source(image_rows[:, :4], _known(job.letterbox))
                if job is not None
                else image_rows[:, :4]
                for image_rows, job in zip(chosen, jobs, strict=True)
            ]
        )
    confidence, class_id = flat[:, 4].copy(), flat[:, 5].astype(np.int64)
    found: list[Detections | None] = []
    start = 0
    for image_rows, job in zip(chosen, jobs, strict=True):
        end = start + len(image_rows)
        if job is None:
            found.append(None)
        else:
            source_hw = _known(job.letterbox).source_hw
            found.append(
                Detections(
                    boxes_xyxy[start:end], confidence[start:end], class_id[start:end], names, source_hw
                )
            )
        start = end
    return found


def _chosen(image_rows: Rows, job: Job | None) -> Rows:
    """Of one image's rows those that the job wants; a view where possible."""
    if job is None:
        return image_rows[:0]
    thresholds, chosen = job.thresholds, image_rows[: np.count_nonzero(image_rows[:, 4])]
    if thresholds.classes is not None:
        chosen = chosen[np.isin(chosen[:, 5], list(thresholds.classes))]
    return chosen[: thresholds.max_det]


def _known(letterbox: Letterbox | None) -> Letterbox:
    assert letterbox is not None  # whatever lies in a slot has been letterboxed
    return letterbox
