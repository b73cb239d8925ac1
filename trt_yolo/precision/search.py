"""Which convolutions stay in floating point: those that are worth it, then others until the accuracy holds (the gate).

Enters: a network, and ways to build and judge models of it. Leaves: sensitivities, layers in the order in which
leaving them pays most, and a model within the allowed drop. Knows neither int8 nor FP16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import ExportError
from trt_yolo.evaluation.coco import Accuracy
from trt_yolo.precision.judge import Heads, Judge, heads_of, output_error
from trt_yolo.precision.network import Convolution, Network
from trt_yolo.precision.report import drop_points
from trt_yolo.system.progress import Progress, no_progress

_Build = Callable[[frozenset[str]], bytes]
"""A runnable model with these convolutions, by their outputs, left in float."""


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


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A model within the allowed drop.

    Attributes:
        model: The artifact, an ONNX file's bytes.
        accuracy: Its accuracy.
        kept: Outputs of the convolutions left in float.
        put_back: Those of them that the gate put back, and the drop in points that made it do so.
    """

    model: bytes
    accuracy: Accuracy
    kept: frozenset[str]
    put_back: dict[str, float]


def sensitivities(
    network: Network,
    build: _Build,
    frames: Sequence[npt.NDArray[np.uint8]],
    wanted: Heads,
    *,
    threads: int,
    progress: Progress = no_progress,
) -> list[Sensitivity]:
    """Each quantizable convolution's, what pays most first.

    Args:
        network: The network.
        build: Makes models to compare.
        frames: Letterboxed frames, a dozen is enough.
        wanted: The float model's heads for them.
        threads: CPU threads of one inference.
        progress: Told after each convolution.
    """
    everything = frozenset(one.output for one in network.quantizable)
    found = []
    for number, one in enumerate(network.quantizable, 1):
        heads = heads_of(build(everything - {one.output}), frames, threads=threads)
        found.append(Sensitivity(convolution=one, error=output_error(wanted, heads)))
        progress("measuring each layer", number, len(everything))
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


def pass_gate(
    judge: Judge,
    build: _Build,
    *,
    start: frozenset[str],
    candidates: Sequence[str] | Iterator[str],
    max_drop: float,
    what: str,
    first: tuple[bytes, Accuracy] | None = None,
    progress: Progress = no_progress,
) -> Passed:
    """The first model within the allowed drop.

    Args:
        judge: Measures.
        build: Makes models.
        start: Outputs of the convolutions that are left in float anyway.
        candidates: Others, in the order in which they are put back; asked for only when they are needed.
        max_drop: Points of mAP50-95 that may be lost.
        what: Of the precision, for the error.
        first: The model of `start` and its accuracy, where they are known.
        progress: Told after each layer that is put back.

    Raises:
        ExportError: None is within it, with all candidates put back.
    """
    model = build(start) if first is None else first[0]
    accuracy = judge.accuracy(model) if first is None else first[1]
    best = drop = drop_points(judge.before, accuracy)
    put_back: dict[str, float] = {}
    waiting = iter(candidates)
    while not drop <= max_drop:  # what is no number does not pass
        output = next(waiting, None)
        if output is None:
            raise ExportError(
                f"{what} loses {best:.2f} points of mAP50-95 at best ({max_drop:g} allowed), with {len(put_back)} more "
                "layers put back; nothing was written: give images that are more like the camera's with --data, "
                "or allow more with --max-drop"
            )
        put_back[output] = drop
        model = build(start | put_back.keys())
        accuracy = judge.accuracy(model)
        drop = drop_points(judge.before, accuracy)
        best = min(best, drop)
        progress("putting layers back", len(put_back), 0)
    return Passed(model=model, accuracy=accuracy, kept=start | put_back.keys(), put_back=put_back)
