"""The check that an export must pass: it notices what is wrong, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trt_yolo.errors import ExportError
from trt_yolo.evaluation.parity import (
    BOX_TOLERANCE_PX,
    LETTERBOX_LEVELS,
    SCORE_TOLERANCE,
    Parity,
    _threshold,
    check_frames,
    check_letterbox,
    check_parity,
)
from trt_yolo.graph import letterbox_in_graph

Floats = np.ndarray[Any, np.dtype[np.float32]]


def _with(model: Path, changed: Callable[[str, Floats], Floats | None]) -> bytes:
    """The graph with some initializers replaced."""
    graph = onnx.load(model)
    for tensor in graph.graph.initializer:
        array = changed(tensor.name, onnx.numpy_helper.to_array(tensor))
        if array is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return graph.SerializeToString()


def _scaled(deploy: Path, ending: str, factor: float) -> bytes:
    """The graph with one initializer multiplied."""
    return _with(deploy, lambda name, array: array * factor if name.endswith(ending) else None)


def test_the_right_graph_passes(demo_head_onnx: Path, demo_onnx: Path) -> None:
    frames = check_frames((256, 256), [])
    parity = check_parity(demo_head_onnx.read_bytes(), demo_onnx.read_bytes(), frames)
    assert parity.holds
    assert parity.images == 3
    assert parity.detections >= 40
    assert parity.worst_box_px < 0.01


@pytest.mark.parametrize(
    ("ending", "factor"), [(".strides", 1.002), (".anchors", 0.999), ("model.0.weight", 1.2)]
)
def test_a_wrong_graph_fails(demo_head_onnx: Path, demo_onnx: Path, ending: str, factor: float) -> None:
    frames = check_frames((256, 256), [])
    with pytest.raises(ExportError, match="does not find what the head graph finds"):
        check_parity(demo_head_onnx.read_bytes(), _scaled(demo_onnx, ending, factor), frames)


def test_an_untrained_class_head_whose_scores_tie_passes(demo_head_onnx: Path, demo_onnx: Path) -> None:
    """All scores are one up to the seventh digit, and the deploy graph rounds them in another way."""
    rng = np.random.default_rng(0)

    def untrained(name: str, array: Floats) -> Floats | None:
        if ".cv3." not in name or ".2." not in name:
            return None
        return array * 1e-6 if array.ndim == 4 else np.full_like(array, -1)

    def rounded(name: str, array: Floats) -> Floats | None:
        found = untrained(name, array)
        return found if found is None or found.ndim == 4 else found + rng.normal(0, 2e-7, found.shape)

    parity = check_parity(
        _with(demo_head_onnx, untrained), _with(demo_onnx, rounded), check_frames((256, 256), [])
    )
    assert (parity.unmatched, parity.detections > 50) == (0, True)
    with pytest.raises(ExportError, match="does not find"):
        check_parity(
            _with(demo_head_onnx, untrained),
            _scaled(demo_onnx, ".strides", 1.002),
            check_frames((256, 256), []),
        )


@pytest.mark.parametrize(
    ("unmatched", "box", "score", "holds"),
    [
        (0, 0.0, 0.0, True),
        (2, BOX_TOLERANCE_PX, SCORE_TOLERANCE, True),
        (3, 0.0, 0.0, False),
        (0, BOX_TOLERANCE_PX * 1.1, 0.0, False),
        (0, 0.0, SCORE_TOLERANCE * 1.1, False),
    ],
)
def test_tolerances(unmatched: int, box: float, score: float, holds: bool) -> None:
    parity = Parity(images=4, detections=100, unmatched=unmatched, worst_box_px=box, worst_score=score)
    assert parity.holds == holds


def test_scores_of_rounding_noise_are_not_compared() -> None:
    """The order of scores of 3e-7 differs from kernel to kernel, and NMS with it."""
    scores = np.array([0.6, 0.2, 0.01, 3e-7, 3e-7], np.float32)
    assert 3e-7 < _threshold(scores) < 0.01
    assert _threshold(scores[3:]) < 3e-7, "where there is nothing else, they are"


def test_the_threshold_is_not_among_scores_that_tie() -> None:
    scores = np.array([0.2] + [0.1] * 300 + [0.1 - 1e-8] * 300 + [0.05] * 10, np.float32)
    assert 0.05 < _threshold(scores) < 0.0999


def test_a_letterbox_that_differs_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_letterbox((100, 200), (64, 64), opset=19) <= LETTERBOX_LEVELS
    monkeypatch.setattr(letterbox_in_graph, "PADDING", 100)
    with pytest.raises(
        ExportError, match=r"differs from the processor's by 14 levels of 255 \(allowed 1\) from 100x200"
    ):
        check_letterbox((100, 200), (64, 64), opset=19)
