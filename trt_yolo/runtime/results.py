"""`Result`, what a stream returns for each frame, and the options of a stream."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trt_yolo.detections import Detections
from trt_yolo.errors import InputError, TrtYoloError
from trt_yolo.runtime.job import Image, Job, StageTimes

Policy = Literal["block", "drop-oldest", "drop-newest"]


class Result:
    """What came of one frame of a stream. Pickles, and holds nothing of the model that made it."""

    __slots__ = ("_detections", "_error", "_frame", "_image", "_index", "_path", "_stages_ms")

    def __init__(self, job: Job) -> None:
        self._index = job.index
        self._path = job.source if isinstance(job.source, Path) else job.video
        self._frame = job.number
        self._detections, self._error = job.detections, job.error
        self._stages_ms, self._image = job.stages_ms, job.image

    def __repr__(self) -> str:
        outcome = self.error if self.error is not None else f"{len(self.detections)} detections"
        return f"<Result {self.index}: {outcome}>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"_error": _portable(self._error)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    @property
    def index(self) -> int:
        """Its place in the source, from 0; frames that were dropped leave gaps."""
        return self._index

    @property
    def path(self) -> Path | None:
        """Its file, if it came from one: an image, or the video that it is a frame of."""
        return self._path

    @property
    def frame(self) -> int | None:
        """Its place in its video, from 0; None for what is no frame of a video, and for an error of the whole file."""
        return self._frame

    @property
    def error(self) -> Exception | None:
        """Why there are no detections; None if there are."""
        return self._error

    @property
    def detections(self) -> Detections:
        """What was found.

        Raises:
            TrtYoloError: The frame's own error, if it has one.
        """
        if self._error is not None:
            raise self._error
        assert self._detections is not None
        return self._detections

    @property
    def times(self) -> StageTimes | None:
        """What each stage took; None with an error."""
        return StageTimes(*self._stages_ms) if self._stages_ms is not None else None

    @property
    def image(self) -> Image | None:
        """(H, W, 3) uint8 BGR, with `keep_images=True`; else None."""
        return self._image


def _portable(error: Exception | None) -> Exception | None:
    """The error, or the same in words where another process could not read it."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  what it has just made
    except Exception as wrong:  # noqa: BLE001  an error of somebody else's may do anything
        return TrtYoloError(f"{type(error).__name__}: {error} (it cannot be pickled: {wrong})")
    return error


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How a stream behaves.

    Attributes:
        ordered: Results in the source's order; else each as soon as it is there.
        policy: What happens to a frame for which there is no room: `block` makes the source wait, `drop-oldest`
            throws away the frame that has waited longest, `drop-newest` the one that just came.
        in_flight: Frames under way at once, read but not yet taken by the consumer; None chooses.
        name: Under which it appears in `stats().sources`.
        keep_images: Whether results hold the source's pixels.

    Raises:
        InputError: A policy that there is not, or no room at all.
    """

    ordered: bool = True
    policy: Policy = "block"
    in_flight: int | None = None
    name: str | None = None
    keep_images: bool = False

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise InputError(f"no policy {self.policy!r}; give {', '.join(get_args(Policy))}")
        if self.in_flight is not None and self.in_flight < 1:
            raise InputError(f"in_flight is {self.in_flight}; give a number of frames, at least 1")
