"""What every backend does around `_run`: checks, filling of static batches, finishing of NMS."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo.artifacts.manifest import DEFAULT_ROWS, Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import Backend, Frames, Output, Rows, output_from_head
from trt_yolo.errors import InputError
from trt_yolo.vision.nms import greedy_nms

HW = (32, 64)
CHAIN = np.array(  # the second overlaps both others, which do not overlap each other
    [[0, 0, 10, 10, 0.9, 0], [0, 4, 10, 14, 0.8, 0], [0, 8, 10, 18, 0.7, 0], [0, 0, 10, 10, 0.6, 1], [0] * 6],
    np.float32,
)


class Recited(Backend):
    """Answers each frame with the same rows, and remembers what it was given."""

    def __init__(
        self, batch: BatchRange, *, rows: Rows = CHAIN, unconverged: tuple[float, ...] = (0,) * 4
    ) -> None:
        manifest = Manifest(
            graph="deploy", names={0: "a", 1: "b"}, imgsz_hw=HW, batch=batch, rows=len(rows), anchors=42
        )
        super().__init__(manifest)
        self._rows, self._unconverged = rows, np.array(unconverged, np.float32)[:, None]
        self.given: list[Frames] = []
        self.closed = 0

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        self.given.append(frames_bgr)
        count = len(frames_bgr)
        return Output(np.stack([self._rows] * count), self._unconverged[:count])

    def close(self) -> None:
        self.closed += 1


def _frames(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(count).integers(1, 256, (count, *HW, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        pytest.param(_frames(1).astype(np.float32), "float32", id="float"),
        pytest.param(_frames(1).astype(np.int8), "int8", id="signed"),
        pytest.param(_frames(1)[0], r"uint8 \(32, 64, 3\)", id="one-frame-without-batch"),
        pytest.param(_frames(1)[..., :1], r"uint8 \(1, 32, 64, 1\)", id="grey"),
        pytest.param(_frames(1)[..., [0, 1, 2, 2]], r"uint8 \(1, 32, 64, 4\)", id="alpha"),
        pytest.param(_frames(1).transpose(0, 3, 1, 2), r"uint8 \(1, 3, 32, 64\)", id="channels-first"),
        pytest.param(_frames(1).transpose(0, 2, 1, 3), r"uint8 \(1, 64, 32, 3\)", id="sides-swapped"),
        pytest.param(np.zeros((), np.uint8), r"uint8 \(\)", id="scalar"),
        pytest.param(_frames(0), "a batch of 0 frames; this model takes 1 to 4", id="no-frames"),
        pytest.param(_frames(5), "a batch of 5 frames; this model takes 1 to 4", id="too-many"),
    ],
)
def test_frames_that_do_not_fit_are_refused_before_they_are_run(frames: Any, message: str) -> None:
    backend = Recited(BatchRange(1, 4))
    with pytest.raises(InputError, match=message):
        backend.infer(frames, conf=0.25, iou=0.5)
    assert backend.given == []


@pytest.mark.parametrize(
    ("batch", "count", "run"),
    [
        (BatchRange(1, 1), 1, 1),
        (BatchRange(4, 4), 1, 4),
        (BatchRange(4, 4), 3, 4),
        (BatchRange(4, 4), 4, 4),
        (BatchRange(1, 4), 1, 1),
        (BatchRange(1, 4), 3, 3),
        (BatchRange(2, 4), 1, 2),
    ],
)
def test_a_batch_is_filled_up_to_what_the_model_takes(batch: BatchRange, count: int, run: int) -> None:
    backend, frames = Recited(batch), _frames(count)
    detections = backend.infer(frames, conf=0.25, iou=0.5)
    assert detections.shape == (count, len(CHAIN), 6)
    (given,) = backend.given
    assert given.shape == (run, *HW, 3)
    np.testing.assert_array_equal(given[:count], frames)
    assert not given[count:].any()


@pytest.mark.parametrize(("iou", "kept"), [(0.3, [0, 2, 3]), (0.5, [0, 1, 2, 3])])
def test_nms_is_finished_where_the_graph_did_not_converge(iou: float, kept: list[int]) -> None:
    backend = Recited(BatchRange(1, 4), unconverged=(0, 3, 0, 0.5))
    got = backend.infer(_frames(4), conf=0.25, iou=iou)
    for index in (0, 2):
        np.testing.assert_array_equal(got[index], CHAIN)
    for index in (1, 3):
        np.testing.assert_array_equal(got[index, : len(kept)], CHAIN[kept])
        assert not got[index, len(kept) :].any()


def test_an_unconverged_filling_frame_is_nobodys_concern() -> None:
    backend = Recited(BatchRange(4, 4), unconverged=(0, 0, 9, 9))
    np.testing.assert_array_equal(backend.infer(_frames(2), conf=0.25, iou=0.3), [CHAIN, CHAIN])


def _slot(backend: Recited) -> tuple[Frames, Rows]:
    """Memory as a worker's slot has it, filled with what was there before."""
    largest = backend.manifest.batch.maximum
    return _frames(largest), np.full((largest, len(CHAIN), 6), 77, np.float32)


@pytest.mark.parametrize(
    ("batch", "count", "run"),
    [
        (BatchRange(1, 1), 1, 1),
        (BatchRange(4, 4), 1, 4),
        (BatchRange(4, 4), 4, 4),
        (BatchRange(1, 4), 1, 1),
        (BatchRange(1, 4), 3, 3),
        (BatchRange(2, 4), 1, 2),
    ],
)
def test_rows_are_written_where_they_belong_from_where_the_frames_lie(
    batch: BatchRange, count: int, run: int
) -> None:
    backend = Recited(batch)
    frames, rows = _slot(backend)
    before = frames.copy()
    backend.infer_into(frames, rows, count=count, conf=0.25, iou=0.5)
    (given,) = backend.given
    assert given.shape == (run, *HW, 3)
    assert np.shares_memory(given, frames)
    np.testing.assert_array_equal(frames[:count], before[:count])
    assert (frames[count:run] == 0).all()
    np.testing.assert_array_equal(frames[run:], before[run:])
    np.testing.assert_array_equal(rows[:count], [CHAIN] * count)
    assert (rows[run:] == 77).all()


@pytest.mark.parametrize(("iou", "kept"), [(0.3, [0, 2, 3]), (0.5, [0, 1, 2, 3])])
def test_nms_is_finished_in_place_where_the_graph_did_not_converge(iou: float, kept: list[int]) -> None:
    backend = Recited(BatchRange(1, 4), unconverged=(0, 3, 0, 0.5))
    frames, rows = _slot(backend)
    backend.infer_into(frames, rows, count=4, conf=0.25, iou=iou)
    for index in (0, 2):
        np.testing.assert_array_equal(rows[index], CHAIN)
    for index in (1, 3):
        np.testing.assert_array_equal(rows[index, : len(kept)], CHAIN[kept])
        assert not rows[index, len(kept) :].any()


def test_an_unconverged_frame_that_is_not_there_is_left_as_it_is() -> None:
    backend = Recited(BatchRange(4, 4), unconverged=(0, 0, 9, 9))
    frames, rows = _slot(backend)
    backend.infer_into(frames, rows, count=2, conf=0.25, iou=0.3)
    np.testing.assert_array_equal(rows[:2], [CHAIN, CHAIN])


@pytest.mark.parametrize(
    ("frames", "count", "message"),
    [
        pytest.param(_frames(4).astype(np.float32), 1, "float32", id="float"),
        pytest.param(_frames(4).transpose(0, 2, 1, 3), 1, r"uint8 \(1, 64, 32, 3\)", id="sides-swapped"),
        pytest.param(_frames(4), 0, "a batch of 0 frames; this model takes 1 to 4", id="no-frames"),
        pytest.param(_frames(6), 5, "a batch of 5 frames; this model takes 1 to 4", id="too-many"),
    ],
)
def test_memory_that_does_not_fit_is_refused_before_it_is_run(frames: Any, count: int, message: str) -> None:
    backend = Recited(BatchRange(1, 4))
    rows = np.full((4, len(CHAIN), 6), 77, np.float32)
    with pytest.raises(InputError, match=message):
        backend.infer_into(frames, rows, count=count, conf=0.25, iou=0.5)
    assert backend.given == []
    assert (rows == 77).all()


def test_finishing_nms_on_no_rows_leaves_no_rows() -> None:
    backend = Recited(BatchRange(1, 1), rows=np.zeros((5, 6), np.float32), unconverged=(1,))
    assert not backend.infer(_frames(1), conf=0.25, iou=0.3).any()


def test_leaving_the_context_closes_the_backend_after_an_error_too() -> None:
    with Recited(BatchRange(1, 1)) as backend:
        assert backend.closed == 0
    assert backend.closed == 1
    with pytest.raises(ZeroDivisionError), backend:
        _ = 1 / 0
    assert backend.closed == 2


def test_a_head_output_becomes_what_a_deploy_graph_returns() -> None:
    rng = np.random.default_rng(0)
    head = rng.random((3, 4 + 2, 200), np.float32)
    head[:, :4] *= np.array([64, 32, 30, 30], np.float32)[:, None]
    head[2, 4:] = 0
    output = output_from_head(head, conf=0.5, iou=0.3)
    assert output.detections.shape == (3, DEFAULT_ROWS, 6)
    assert output.unconverged.tolist() == [[0], [0], [0]]
    assert not output.detections[2].any()
    for rows in output.detections[:2]:
        used = rows[rows[:, 4] > 0]
        assert 5 < len(used) < 200
        assert (used[:, 4] > 0.5).all()
        assert (np.diff(used[:, 4]) <= 0).all()
        np.testing.assert_array_equal(greedy_nms(used, iou=0.3), used)
        assert not rows[len(used) :].any()


def test_a_head_output_gives_no_more_rows_than_asked() -> None:
    head = np.random.default_rng(0).random((1, 5, 50), np.float32)
    assert output_from_head(head, conf=0.0, iou=1.0, rows=7).detections.shape == (1, 7, 6)
