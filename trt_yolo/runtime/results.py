"""What a stream gives for each frame, and how it may behave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trt_yolo.detections import Detections
from trt_yolo.errors import InputError
from trt_yolo.runtime.jobs import Image, Job, StageTimes

Policy = Literal["block", "drop-oldest", "drop-newest"]


class Result:
    """What came of one frame of a stream."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    def __repr__(self) -> str:
        outcome = self.error if self.error is not None else f"{len(self.detections)} detections"
        return f"<Result {self.index}: {outcome}>"

    @property
    def index(self) -> int:
        """Its place in the source, from 0; frames that were dropped leave gaps."""
        return self._job.index

    @property
    def path(self) -> Path | None:
        """Its file, if it came from one."""
        return self._job.source if isinstance(self._job.source, Path) else None

    @property
    def error(self) -> Exception | None:
        """Why there are no detections; None if there are."""
        return self._job.error

    @property
    def detections(self) -> Detections:
        """What was found.

        Raises:
            TrtYoloError: The frame's own error, if it has one.
        """
        if self._job.error is not None:
            raise self._job.error
        assert self._job.detections is not None
        return self._job.detections

    @property
    def times(self) -> StageTimes | None:
        """What each stage took; None with an error."""
        return StageTimes(*self._job.stages_ms) if self._job.stages_ms is not None else None

    @property
    def image(self) -> Image | None:
        """(H, W, 3) uint8 BGR, with `keep_images=True`; else None."""
        return self._job.image


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
