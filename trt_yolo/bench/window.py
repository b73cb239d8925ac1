"""What was seen while something was measured for a while: queries, images, stages.

The raw material of every figure. Knows no models, no scenarios and no statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from trt_yolo.runtime.job import StageTimes


class Query(NamedTuple):
    """One question and its answer; times are those of `time.perf_counter`, in seconds.

    Attributes:
        due_s: When it was due: its latency counts from here, so that waiting is not hidden.
        begun_s: When it was sent.
        ended_s: When it was answered.
        images: How many images it was about.
    """

    due_s: float
    begun_s: float
    ended_s: float
    images: int = 1

    @property
    def latency_ms(self) -> float:
        """From when it was due to its answer, in milliseconds."""
        return (self.ended_s - self.due_s) * 1e3


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of time in which something was measured.

    Attributes:
        started_s: When it began, `time.perf_counter`.
        seconds: How long the counted images took.
        images: Images that were counted.
        queries: Each query, in the order of their answers; none where a load has no latency.
        stages: What an image took in each stage, mean; None where nobody can see it.
        offered: Images that were sent, or that cameras had; 0 where that is the same as what was answered.
        dropped: Of those, thrown away by a drop policy.
        errors: Of those, answered with an error.
        lost: Of those, never answered: must be 0.
        is_cut: Whether it was ended early, because answers fell behind without end.
    """

    started_s: float
    seconds: float
    images: int
    queries: Sequence[Query] = ()
    stages: StageTimes | None = None
    offered: int = 0
    dropped: int = 0
    errors: int = 0
    lost: int = 0
    is_cut: bool = False
    ends_s: Sequence[float] = field(default=(), repr=False)
    """When each image was answered, for windows that are cut into pieces; none elsewhere."""

    @property
    def images_per_s(self) -> float:
        """Its throughput; 0 where nothing was answered."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


class Contender(Protocol):
    """Something that can be measured, beside others.

    Attributes:
        name: What it is called in results.
        is_continuous: Whether it is measured in one piece: a queue that is emptied between windows is no queue.
    """

    name: str
    is_continuous: bool

    def window(self, seconds: float) -> Window:
        """Runs for about so long, at least one query; nothing is under way when it returns.

        Raises:
            TrtYoloError: It failed.
        """


class Named:
    """A contender under another name, which tells it from those of other models or settings.

    Attributes:
        inner: The contender.
    """

    def __init__(self, inner: Contender, name: str) -> None:
        self.inner, self.name, self.is_continuous = inner, name, inner.is_continuous

    def window(self, seconds: float) -> Window:
        """See `Contender`."""
        return self.inner.window(seconds)
