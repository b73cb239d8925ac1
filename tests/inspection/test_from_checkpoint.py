"""What a checkpoint holds: its modules, their parameters, its facts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.errors import CheckpointError, InputError, UnsupportedModelError
from trt_yolo.inspection.from_checkpoint import inspection_from_checkpoint

YOLOV8N_PARAMETERS = 3_157_200  # as Ultralytics counts them before fusing
YOLOV8N_HEAD_PARAMETERS = 897_664


def test_the_demo_checkpoint() -> None:
    inspection = inspection_from_checkpoint(demo_checkpoint())
    assert inspection.format == "pt"
    assert inspection.bytes == demo_checkpoint().stat().st_size
    (images,), (output,) = inspection.inputs, inspection.outputs
    assert images.shape == ("batch", 3, 256, 256)
    assert output.shape == ("batch", 14, 1344)
    assert inspection.facts["architecture"] == "YOLOv8 (yolov8n.yaml)"
    assert inspection.facts["strides"] == "8, 16, 32"
    assert inspection.facts["image size"] == "256"
    assert inspection.facts["classes"].startswith("10: ")
    assert (inspection.manifest, inspection.loads_here) == (None, None)


def test_parameters_are_what_ultralytics_counts(yolov8n: Path) -> None:
    inspection = inspection_from_checkpoint(yolov8n)
    assert inspection.parameters == YOLOV8N_PARAMETERS
    assert inspection.layers[-1].kind == "Detect"
    assert inspection.layers[-1].parameters == YOLOV8N_HEAD_PARAMETERS
    assert inspection.facts["convolutions"] == "64"
    share = inspection.precisions["fp16"]  # Ultralytics saves halves
    assert share.parameters == YOLOV8N_PARAMETERS


def test_modules_read_from_where_the_yaml_says() -> None:
    layers = {layer.name: layer for layer in inspection_from_checkpoint(demo_checkpoint()).layers}
    assert layers["model.0"].inputs == ("images",)
    assert layers["model.1"].inputs == ("model.0",)
    assert layers["model.11"].kind == "Concat"
    assert layers["model.11"].inputs == ("model.10", "model.6")
    assert layers["model.22"].inputs == ("model.15", "model.18", "model.21")
    assert layers["model.22"].outputs == ("output0",)


def test_it_is_json() -> None:
    found = inspection_from_checkpoint(demo_checkpoint()).to_dict()
    assert json.loads(json.dumps(found))["parameters"] == found["parameters"] > 3_000_000


def test_another_task_is_what_reading_says(shared: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="segmentation"):
        inspection_from_checkpoint(shared / "weights" / "yolov8n-seg.pt")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", demo_checkpoint().read_bytes()[:-1000]])
def test_a_damaged_file_is_what_reading_says(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.pt"):
        inspection_from_checkpoint(path)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        inspection_from_checkpoint(tmp_path / "none.pt")
