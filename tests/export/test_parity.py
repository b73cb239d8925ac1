"""The check that an export must pass: it notices what is wrong, and only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from trt_yolo.errors import ExportError
from trt_yolo.export.parity import (
    BOX_TOLERANCE_PX,
    SCORE_TOLERANCE,
    Parity,
    _threshold,
    check_frames,
    check_parity,
)


def _changed(deploy: Path, ending: str, factor: float) -> bytes:
    """The graph with one initializer multiplied."""
    model = onnx.load(deploy)
    tensor = next(one for one in model.graph.initializer if one.name.endswith(ending))
    array = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


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
        check_parity(demo_head_onnx.read_bytes(), _changed(demo_onnx, ending, factor), frames)


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
