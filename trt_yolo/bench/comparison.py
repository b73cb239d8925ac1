"""Two models beside each other: bare inference on the same images, in turn, in one run.

Enters: two loaded models and image files. Leaves: a `Comparison`. Prints nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from trt_yolo.backends.base import Backend
from trt_yolo.bench.measure import bare_calls_on, check_bench, timed_for

_WINDOWS = 9

Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models, each alone in one session on prepared frames, same batch and threads.

    Attributes:
        images_per_s: The first one's.
        other_images_per_s: The other's.
        ratio: How many times as fast the first is: the median over windows that were measured in turn.
    """

    images_per_s: float
    other_images_per_s: float
    ratio: float


def compare_models(
    one: Backend,
    other: Backend,
    paths: Sequence[Path],
    *,
    batch: int,
    seconds: float,
    progress: Progress | None = None,
) -> Comparison:
    """How fast two models are, measured in turn.

    Args:
        one: A model.
        other: Another, loaded with the same number of threads.
        paths: Readable image files.
        batch: Images a call; both must take it.
        seconds: For both together, warm-up not counted.
        progress: Called after each window.

    Raises:
        InputError: A batch that one of them does not take, or no time.
    """
    calls = []
    for backend in (one, other):
        check_bench(backend, paths, batch, seconds)
        calls.append(itertools.cycle(bare_calls_on(backend, paths, batch)))
        next(calls[-1])()
    share_s = seconds / 2 / _WINDOWS
    rates: list[tuple[float, float]] = []
    for window in range(_WINDOWS):
        taken_s = [timed_for(lambda own=own: next(own)(), share_s) for own in calls]  # type: ignore[misc]
        rates.append((batch * len(taken_s[0]) / sum(taken_s[0]), batch * len(taken_s[1]) / sum(taken_s[1])))
        if progress is not None:
            progress((window + 1) / _WINDOWS)
    return Comparison(
        images_per_s=median(first for first, _ in rates),
        other_images_per_s=median(second for _, second in rates),
        ratio=median(first / second for first, second in rates),
    )
