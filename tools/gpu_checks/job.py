"""What a part is told, in words that reach its process; and how it answers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpu_checks.record import Row

Report = Callable[[Row], None]


def silent(_: Row) -> None:
    """For rows that another part reports."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a part is told.

    Attributes:
        model: A `.pt` or a deploy `.onnx`; None: the demo model.
        data: A folder of images, or a data.yaml; None: demo scenes.
        work: Folder for what is made, shared by all parts.
        rehearse: Whether to run on the processor what can be run there.
        quick: Whether windows are as short and repetitions as few as they may be.
        precisions: Of `fp32`, `fp16`, `int8`.
        deadline_s: When it should have ended, `time.time`.
    """

    model: str | None
    data: str | None
    work: str
    rehearse: bool
    quick: bool
    precisions: tuple[str, ...]
    deadline_s: float

    @property
    def left_s(self) -> float:
        """What is left of its time, in seconds."""
        return self.deadline_s - time.time()

    @property
    def folder(self) -> Path:
        """The folder for what is made."""
        return Path(self.work)

    def to_json(self) -> str:
        """For the command line of the part's process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` gave."""
        fields = json.loads(text)
        return cls(**{**fields, "precisions": tuple(fields["precisions"])})
