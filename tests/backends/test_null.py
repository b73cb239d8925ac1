"""The backend that computes nothing: each frame's answer tells which frame it was."""

from __future__ import annotations

import types

import numpy as np
import pytest

from trt_yolo.artifacts.manifest import DEFAULT_ROWS, GraphKind, Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends import null
from trt_yolo.backends.null import NullBackend, null_from_manifest
from trt_yolo.errors import InputError

UP_TO_8 = BatchRange(1, 8)


def _backend(
    *, batch: BatchRange = UP_TO_8, rows: int = 20, graph: GraphKind = "deploy", delay_ms: float = 0
) -> NullBackend:
    names = {index: str(index) for index in range(10)}
    manifest = Manifest(graph=graph, names=names, imgsz_hw=(32, 64), batch=batch, rows=rows, anchors=42)
    return NullBackend(manifest, delay_ms=delay_ms)


def test_each_frame_is_answered_with_its_mark() -> None:
    marks = np.array([3, 0, 255, 10, 7], np.uint8)
    frames = np.full((5, 32, 64, 3), 99, np.uint8)
    frames[:, 0, 0, 0] = marks
    rows = _backend().infer(frames, conf=0.25, iou=0.7)
    assert (rows.shape, rows.dtype) == ((5, 20, 6), np.float32)
    np.testing.assert_array_equal(rows[:, 0], [[0, 0, 64, 32, 1, mark % 10] for mark in marks.tolist()])
    assert not rows[:, 1:].any()


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_static_batch_answers_only_the_frames_given(count: int) -> None:
    frames = np.zeros((count, 32, 64, 3), np.uint8)
    rows = _backend(batch=BatchRange(4, 4)).infer(frames, conf=0.25, iou=0.7)
    assert rows.shape == (count, 20, 6)


def test_a_head_graph_is_answered_with_as_many_rows_as_the_runtime_makes() -> None:
    backend = _backend(graph="head", rows=0)
    assert backend.infer(np.zeros((1, 32, 64, 3), np.uint8), conf=0.25, iou=0.7).shape == (1, DEFAULT_ROWS, 6)


@pytest.mark.parametrize(("batch", "count"), [(UP_TO_8, 1), (UP_TO_8, 8), (BatchRange(4, 4), 3)], ids=str)
def test_marks_are_written_into_memory_too(batch: BatchRange, count: int) -> None:
    backend = _backend(batch=batch)
    frames = np.zeros((batch.maximum, 32, 64, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(batch.maximum) + 3
    rows = np.full((batch.maximum, 20, 6), 77, np.float32)
    backend.infer_into(frames, rows, count=count, conf=0.25, iou=0.7)
    np.testing.assert_array_equal(rows[:count], backend.infer(frames[:count], conf=0.25, iou=0.7))
    assert rows[:count, 0, 5].tolist() == [(mark + 3) % 10 for mark in range(count)]


def test_a_null_backend_is_made_from_a_manifests_json() -> None:
    manifest = _backend().manifest
    backend = null_from_manifest(manifest.to_json(), delay_ms=1)
    assert backend.manifest == manifest


def test_frames_are_checked_as_by_every_backend() -> None:
    with pytest.raises(InputError, match="a batch of 9 frames; this model takes 1 to 8"):
        _backend().infer(np.zeros((9, 32, 64, 3), np.uint8), conf=0.25, iou=0.7)


def test_a_delay_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds + 1e-4

    monkeypatch.setattr(null, "time", types.SimpleNamespace(perf_counter=lambda: now_s[0], sleep=sleep))
    _backend(delay_ms=20).infer(np.zeros((1, 32, 64, 3), np.uint8), conf=0.25, iou=0.7)
    assert now_s[0] == pytest.approx(100.02, abs=2e-4)
