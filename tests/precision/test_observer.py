"""Ranges and histograms against numpy's on tensors that the test computes itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.precision import graphs
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import images_for_head
from trt_yolo.errors import ExportError
from trt_yolo.precision import observer
from trt_yolo.precision.network import Network
from trt_yolo.precision.observer import BINS, Frame, Observed, observe, observe_ranges

COUNT = 5


@pytest.fixture(scope="module")
def demo() -> Network:
    return graphs.demo_network()


@pytest.fixture(scope="module")
def tensors(demo: Network) -> list[str]:
    """The input, the output, and some of what is between."""
    inner = [one.input for one in demo.convolutions[1:40:6]] + [
        one.output for one in demo.convolutions[3:9:2]
    ]
    return ["images", "output0", *dict.fromkeys(inner)]


@pytest.fixture(scope="module")
def wanted(demo: Network, tensors: list[str]) -> dict[str, graphs.Floats]:
    """(channels, values) of each tensor, by a plain session."""
    runs = [
        graphs.run_showing(demo.model, [name for name in tensors if name != "images"], images)
        for images in (images_for_head(frame[None]) for frame in graphs.demo_frames(COUNT))
    ]
    for run, frame in zip(runs, graphs.demo_frames(COUNT), strict=True):
        run["images"] = frame[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    joined = {name: np.concatenate([run[name] for run in runs]) for name in tensors}
    return {name: one.swapaxes(0, 1).reshape(one.shape[1], -1) for name, one in joined.items()}


@pytest.fixture(scope="module")
def observed(demo: Network, tensors: list[str]) -> dict[str, Observed]:
    return observe(demo.model, tensors, lambda: graphs.demo_frames(COUNT), threads=graphs.THREADS)


def test_ranges_are_exact(observed: dict[str, Observed], wanted: dict[str, graphs.Floats]) -> None:
    assert observed.keys() == wanted.keys()
    for name, one in observed.items():
        if name == "images":  # 1/255 is multiplied there, divided by here
            np.testing.assert_allclose(
                [one.low, one.high], [wanted[name].min(), wanted[name].max()], rtol=1e-6
            )
        else:
            assert (one.low, one.high) == (wanted[name].min(), wanted[name].max())


def test_every_value_is_counted_once(observed: dict[str, Observed], wanted: dict[str, graphs.Floats]) -> None:
    for name, one in observed.items():
        channels, values = wanted[name].shape
        assert one.counts.shape == (channels, BINS)
        assert one.counts.dtype == np.uint32
        assert (one.counts.sum(axis=1) == values).all()
        assert one.histogram.counts.sum() == wanted[name].size
        assert (one.histogram.low, one.histogram.high) == (one.low, one.high)
        np.testing.assert_array_equal(one.centres, one.histogram.centres)


def test_histograms_are_numpys(observed: dict[str, Observed], wanted: dict[str, graphs.Floats]) -> None:
    for name, one in observed.items():
        for counts, values in zip(one.counts, wanted[name].astype(np.float64), strict=True):
            numpys, _ = np.histogram(values, BINS, (one.low, one.high))
            moved = np.abs(np.cumsum(numpys) - np.cumsum(counts.astype(np.int64))).max()
            assert moved <= max(1e-3 * values.size, 3), "rounding moves a value to the next bin, seldom"
            width = (one.high - one.low) / BINS
            mean = float(counts @ one.centres / counts.sum())
            assert mean == pytest.approx(values.mean(), abs=width)


@pytest.mark.parametrize("group_bytes", [1, 3_000_000])
def test_several_runs_see_the_same(
    demo: Network,
    tensors: list[str],
    observed: dict[str, Observed],
    group_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observer, "_GROUP_BYTES", group_bytes)
    frames = _Frames()
    again = observe(demo.model, tensors, frames, threads=graphs.THREADS)
    groups = frames.passes // 2
    assert groups == len(tensors) if group_bytes == 1 else 1 < groups < len(tensors)
    assert frames.given == 2 * groups * COUNT
    for name, one in observed.items():
        assert (again[name].low, again[name].high) == (one.low, one.high)
        np.testing.assert_array_equal(again[name].counts, one.counts)


class _Frames:
    """Counts who asks for frames, and how many of them are alive at once."""

    def __init__(self) -> None:
        self.passes = 0
        self.given = 0

    def __call__(self) -> Iterator[Frame]:
        self.passes += 1
        for frame in graphs.demo_frames(COUNT):
            self.given += 1
            yield frame


def test_each_frame_is_asked_for_when_it_is_needed(demo: Network, tensors: list[str]) -> None:
    frames, seen = _Frames(), []
    observe(
        demo.model,
        tensors,
        frames,
        threads=graphs.THREADS,
        progress=lambda _stage, done, _total: seen.append((done, frames.passes, frames.given)),
    )
    assert seen == [(done, 1 + (done > COUNT), done) for done in range(1, 2 * COUNT + 1)]


def test_progress_counts_each_frame_once_a_pass(demo: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "_GROUP_BYTES", 1)
    seen: list[tuple[str, int, int]] = []
    names = ["images", "output0", demo.convolutions[0].output]
    observe(
        demo.model, names, _Frames(), count=COUNT, threads=graphs.THREADS,
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    steps = [("calibrating", number, 2 * COUNT) for number in range(1, 2 * COUNT + 1)]
    assert seen == steps, "frames count once a pass, however many runs they need"


@pytest.mark.parametrize("batch", [BatchRange(4, 4), BatchRange(1, 4)], ids=str)
def test_batch_of_the_graph_does_not_matter(
    observed: dict[str, Observed], tensors: list[str], batch: BatchRange
) -> None:
    model = graphs.demo_network(batch=batch).model
    again = observe(model, tensors, lambda: graphs.demo_frames(COUNT), threads=graphs.THREADS)
    for name, one in observed.items():
        assert again[name].low == pytest.approx(one.low, abs=1e-4)
        assert again[name].high == pytest.approx(one.high, rel=1e-5)
        assert again[name].counts.sum() == one.counts.sum(), "one image of the batch counts"
        moved = np.abs(np.cumsum(again[name].histogram.counts) - np.cumsum(one.histogram.counts)).max()
        assert moved <= 1e-3 * one.counts.sum()


def test_the_model_is_left_as_it_was(demo: Network, tensors: list[str]) -> None:
    before = demo.model.SerializeToString()
    observe_ranges(demo.model, tensors, lambda: graphs.demo_frames(1), threads=graphs.THREADS)
    assert demo.model.SerializeToString() == before


def _with_weight(network: Network, value: float) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    tensor = next(one for one in model.graph.initializer if one.name == network.convolutions[4].weight)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[7] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_values_that_are_not_finite(demo: Network, value: float) -> None:
    name = demo.convolutions[4].output
    with pytest.raises(ExportError, match=rf"not finite \(tensor {name}\); the checkpoint is damaged"):
        observe(_with_weight(demo, value), [name], lambda: graphs.demo_frames(1), threads=graphs.THREADS)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([[2.0, 2.0, 2.0]], 2.0, 2.0),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0, 0.0),
        ([[-1.0, 1.0], [0.0, 0.999999]], -1.0, 1.0),
        ([[1e-20, 2e-20]], 1e-20, 2e-20),
        ([[-1e38, 1e38]], -1e38, 1e38),
    ],
)
def test_counting_of_odd_values(values: list[list[float]], low: float, high: float) -> None:
    counts = observer._counted(np.array(values, np.float32), low, high)
    assert counts.shape == (len(values), BINS)
    assert (counts.sum(axis=1) == len(values[0])).all()
    if low == -1:
        assert (counts[0, 0], counts[0, -1]) == (1, 1)
        assert (counts[1, BINS // 2], counts[1, -1]) == (1, 1)
    if high == 1e38:
        assert (counts[0, 0], counts[0, -1]) == (1, 1)
