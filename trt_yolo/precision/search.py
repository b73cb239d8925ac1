"""Which convolutions are worth leaving in floating point.

Enters: a network, and ways to build and judge models of it. Leaves: sensitivities, and layers in the order in
which leaving them pays most. Knows neither int8 nor FP16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_yolo.precision.judging import Heads, heads_of, output_error
from trt_yolo.precision.network import Convolution, Network

Build = Callable[[frozenset[str]], bytes]
"""A runnable model with these convolutions, by their outputs, left in float."""

StepProgress = Callable[[int, int], None]
"""Called with the steps done and the steps there are."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What one convolution costs.

    Attributes:
        convolution: It.
        error: How far the outputs move when it alone is of low precision; see `output_error`.
    """

    convolution: Convolution
    error: float

    @property
    def worth(self) -> float:
        """What leaving it in float wins for the work that this costs: errors of many layers add as squares."""
        return self.error**2 / max(self.convolution.macs, 1)


def sensitivities(
    network: Network,
    build: Build,
    frames: Sequence[npt.NDArray[np.uint8]],
    wanted: Heads,
    *,
    threads: int,
    progress: StepProgress | None = None,
) -> list[Sensitivity]:
    """Each quantizable convolution's, what pays most first.

    Args:
        network: The network.
        build: Makes models to compare.
        frames: Letterboxed frames, a dozen is enough.
        wanted: The float model's heads for them.
        threads: CPU threads of one inference.
        progress: Called after each convolution.
    """
    everything = frozenset(one.output for one in network.quantizable)
    found = []
    for number, one in enumerate(network.quantizable, 1):
        heads = heads_of(build(everything - {one.output}), frames, threads=threads)
        found.append(Sensitivity(convolution=one, error=output_error(wanted, heads)))
        if progress is not None:
            progress(number, len(everything))
    return sorted(found, key=lambda one: -one.worth)


def worth_keeping(network: Network, ordered: Sequence[Sensitivity], *, most: float) -> list[Sensitivity]:
    """The convolutions to leave in float from the start: what pays more than average, as long as the work allows.

    Args:
        network: The network.
        ordered: Sensitivities, what pays most first.
        most: The share of all multiply-accumulates that may be left in float, with what never is int8.
    """
    share = 1 - network.share(one.output for one in network.quantizable)
    average = sum(one.error**2 for one in ordered) / sum(one.convolution.macs for one in ordered)
    kept = []
    for one in ordered:
        with_it = share + network.share([one.convolution.output])
        if with_it <= most and one.worth > average:
            kept.append(one)
            share = with_it
    return kept
