"""What values the tensors of a network take: ranges in one pass over the images, histograms in a second.

Enters: a float32 head graph, names of its tensors, frames one after another. Leaves: `Observed`. Memory depends
on the network and not on the number of images. Knows no precision and no files.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from trt_yolo.backends.base import images_for_head
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.errors import ExportError
from trt_yolo.graph.writer import dimensions
from trt_yolo.precision.scales import Histogram
from trt_yolo.system.progress import Progress, no_progress

BINS = 2048
_GROUP_BYTES = 400_000_000  # of tensors that are looked at in one run

Frame = npt.NDArray[np.uint8]
Frames = Callable[[], Iterable[Frame]]
"""Gives the letterboxed frames, (H, W, 3) uint8, anew each time it is called."""


@dataclass(frozen=True, eq=False)
class Observed:
    """The values of one tensor.

    Attributes:
        low: The lowest.
        high: The highest.
        counts: (channels, bins) uint32, how often each channel's values fell between `low` and `high`.
    """

    low: float
    high: float
    counts: npt.NDArray[np.uint32]

    @property
    def histogram(self) -> Histogram:
        """Of all channels together."""
        return Histogram(self.low, self.high, self.counts.sum(axis=0, dtype=np.float64))

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """(bins,) float64: the middle of each bin."""
        return Histogram(self.low, self.high, np.zeros(self.counts.shape[1])).centres


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    frames: Frames,
    *,
    count: int = 0,
    threads: int,
    progress: Progress = no_progress,
) -> dict[str, Observed]:
    """The values that each tensor takes on the frames; two passes over them.

    Args:
        model: A float32 head graph.
        tensors: Names of its tensors.
        frames: Those that it runs on.
        count: How many they are; 0 if nobody knows.
        threads: CPU threads of one inference.
        progress: Told after each frame of each pass.

    Raises:
        ExportError: A value is not finite.
        BackendError: ONNX Runtime failed.
    """
    done = itertools.count(1)

    def on_frame() -> None:
        progress("calibrating", next(done), 2 * count)

    ranges = observe_ranges(model, tensors, frames, threads=threads, on_frame=on_frame)
    counts: dict[str, npt.NDArray[np.uint32]] = {}
    for name, values in _tensors_of(model, tensors, frames, threads, on_frame):
        channels = values.swapaxes(0, 1).reshape(values.shape[1], -1)
        if name not in counts:
            counts[name] = np.zeros((len(channels), BINS), np.uint32)
        counts[name] += _counted(channels, *ranges[name])
    return {name: Observed(*ranges[name], counts[name]) for name in tensors}


def observe_ranges(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    frames: Frames,
    *,
    threads: int,
    on_frame: Callable[[], None] = lambda: None,
) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each tensor on the frames.

    Raises:
        ExportError: A value is not finite.
        BackendError: ONNX Runtime failed.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for name, values in _tensors_of(model, tensors, frames, threads, on_frame):
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ExportError(
                f"the float model computes values that are not finite (tensor {name}); "
                "the checkpoint is damaged, or its training diverged"
            )
        before = ranges.get(name, (low, high))
        ranges[name] = min(low, before[0]), max(high, before[1])
    return ranges


def _tensors_of(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    frames: Frames,
    threads: int,
    on_frame: Callable[[], None],
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Name and values of each tensor for each frame, in as many runs as their size needs."""
    groups = list(_groups(model, tensors))
    for last, group in zip([*[False] * (len(groups) - 1), True], groups, strict=True):
        session = open_session(_showing(model, group), threads=threads)
        names = [output.name for output in session.get_outputs()]
        (source,) = session.get_inputs()
        batch = source.shape[0] if isinstance(source.shape[0], int) else 1
        for frame in frames():
            feed = {source.name: images_for_head(np.repeat(frame[None], batch, axis=0))}
            values = dict(zip(names, session.run(None, feed), strict=True)) | feed
            for name in group:
                yield name, values[name][:1]
            if last:
                on_frame()


def _groups(model: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[list[str]]:
    """The tensors in groups that fit into memory together."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        value.name: 4 * int(np.prod([side for side in dimensions(value) if isinstance(side, int)]))
        for value in (*inferred.value_info, *inferred.output, *inferred.input)
    }
    group: list[str] = []
    total = 0
    for name in tensors:
        if group and total + sizes.get(name, 0) > _GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += sizes.get(name, 0)
    yield group


def _showing(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """The model with those tensors among its outputs, after its own."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {value.name for value in (*shown.graph.output, *shown.graph.input)}
    for name in tensors:
        if name not in there:
            shown.graph.output.add(name=name)
    return bytes(shown.SerializeToString())


def _counted(channels: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.uint32]:
    """(channels, bins): how many values of each channel fall into each bin."""
    width = np.float32(BINS / max(high - low, 1e-12))
    bins = ((channels - np.float32(low)) * width).astype(np.int32)
    np.clip(bins, 0, BINS - 1, out=bins)
    bins += np.arange(len(channels), dtype=np.int32)[:, None] * BINS
    counted = np.bincount(bins.ravel(), minlength=len(channels) * BINS)
    return counted.astype(np.uint32).reshape(-1, BINS)
