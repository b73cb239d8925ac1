"""The manifest: through JSON and back, from damaged text, and from Ultralytics' metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from trt_yolo.artifacts.manifest import DYNAMIC_BATCH, Manifest, manifest_from_json, manifest_from_ultralytics
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.errors import UnsupportedModelError

MANIFEST = Manifest(
    graph="deploy",
    names={0: "Straße", 1: '"quoted"', 9: "日本"},
    imgsz_hw=(384, 640),
    batch=BatchRange(1, 4),
    rows=300,
    anchors=5040,
    precision="int8",
    opset=19,
    source="a.pt",
    source_sha256="0" * 64,
    exporter="native",
    version="0.1.0",
    created="2025-01-01T00:00:00+00:00",
)
SHAPE_640 = (1, 3, 640, 640)
HEAD_640 = (1, 84, 8400)


def test_json_and_back_is_the_same() -> None:
    text = MANIFEST.to_json()
    assert "\n" not in text
    assert json.loads(text)["schema"] == 1
    assert manifest_from_json(text, origin="a.onnx") == MANIFEST


def test_frames_of_the_source() -> None:
    camera = dataclasses.replace(MANIFEST, source_hw=(1080, 1920))
    assert manifest_from_json(camera.to_json(), origin="a.onnx") == camera
    assert (MANIFEST.frame_hw, camera.frame_hw) == ((384, 640), (1080, 1920))
    older = json.loads(MANIFEST.to_json())
    del older["source_hw"]
    assert manifest_from_json(json.dumps(older), origin="a.onnx") == MANIFEST


@pytest.mark.parametrize("sides", [[1080], [0, 5], [-1, 5], [1, 9000], ["a", 2], 5, "1x2", {"a": 1}], ids=str)
def test_frames_of_no_size_are_damage(sides: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="damaged manifest"):
        manifest_from_json(_changed(source_hw=sides), origin="a.onnx")


def _changed(**fields: Any) -> str:
    return json.dumps({**json.loads(MANIFEST.to_json()), **fields})


def _without(field: str) -> str:
    fields = json.loads(MANIFEST.to_json())
    del fields[field]
    return json.dumps(fields)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut-short"),
        pytest.param(MANIFEST.to_json()[:-20], id="cut-short-late"),
        pytest.param("[]", id="list"),
        pytest.param("null", id="null"),
        pytest.param("3", id="number"),
        pytest.param("{}", id="no-fields"),
        pytest.param("[" * 200_000, id="bottomless"),
        *(pytest.param(_without(field), id=f"no-{field}") for field in json.loads(MANIFEST.to_json())
          if field in ("schema", "graph", "names", "imgsz_hw", "batch", "rows", "anchors")),
        pytest.param(_changed(names=["a"]), id="names-as-list"),
        pytest.param(_changed(names={"a": "b"}), id="name-of-no-number"),
        pytest.param(_changed(imgsz_hw=[640]), id="one-side"),
        pytest.param(_changed(imgsz_hw=[640, "wide"]), id="side-of-text"),
        pytest.param(_changed(imgsz_hw=640), id="imgsz-as-number"),
        pytest.param(_changed(batch=None), id="batch-null"),
        pytest.param(_changed(batch={"minimum": 1}), id="batch-half"),
        pytest.param(_changed(colour="red"), id="unknown-field"),
    ],
)  # fmt: skip
def test_damaged_json_is_refused_and_the_file_named(text: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"a\.onnx has a damaged manifest .*export"):
        manifest_from_json(text, origin="a.onnx")


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused(schema: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"a\.onnx has a manifest of schema .* reads 1"):
        manifest_from_json(_changed(schema=schema), origin="a.onnx")


def _from_ultralytics(
    metadata: dict[str, str],
    shape: Sequence[int | str] = SHAPE_640,
    *outputs: Sequence[int | str],
    imgsz_hw: tuple[int, int] | None = None,
) -> Manifest:
    return manifest_from_ultralytics(
        metadata, input_shape=shape, output_shapes=outputs or (HEAD_640,), imgsz_hw=imgsz_hw, origin="a.onnx"
    )


def test_a_static_head_graph() -> None:
    names = {index: f"n{index}" for index in range(80)}
    got = _from_ultralytics({"task": "detect", "names": str(names), "imgsz": "[640, 640]", "batch": "1"})
    assert got == Manifest(
        graph="head", names=names, imgsz_hw=(640, 640), batch=BatchRange(1, 1), rows=0, anchors=8400
    )


def test_one_class_is_enough() -> None:
    got = _from_ultralytics({"names": "{0: 'face'}"}, SHAPE_640, (1, 5, 8400))
    assert got.names == {0: "face"}


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({"batch": "8"}, BatchRange(1, 8)),
        ({"batch": "1"}, BatchRange(1, DYNAMIC_BATCH)),
        ({"batch": "many"}, BatchRange(1, DYNAMIC_BATCH)),
        ({}, BatchRange(1, DYNAMIC_BATCH)),
    ],
)
def test_a_dynamic_batch_has_the_declared_maximum(metadata: dict[str, str], wanted: BatchRange) -> None:
    got = _from_ultralytics(metadata, ("batch", 3, 640, 640), ("batch", 84, "anchors"))
    assert (got.batch, got.anchors) == (wanted, 0)


def test_a_dynamic_size_is_taken_from_the_argument_then_from_the_metadata() -> None:
    metadata, shape, output = {"imgsz": "[384, 640]"}, (1, 3, "height", "width"), (1, 84, "anchors")
    assert _from_ultralytics(metadata, shape, output).imgsz_hw == (384, 640)
    assert _from_ultralytics(metadata, shape, output, imgsz_hw=(96, 64)).imgsz_hw == (96, 64)


@pytest.mark.parametrize(
    "imgsz",
    [
        "",
        "640",
        "[640]",
        "wide",
        "['a', 'b']",
        "[" * 5000,
        "[0, 640]",
        "[640, -640]",
        "[True, True]",
        f"[640, {10**30}]",
    ],
)
def test_a_dynamic_size_that_nobody_gives_is_refused(imgsz: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"a\.onnx has no fixed image size; give one"):
        _from_ultralytics({"imgsz": imgsz}, (1, 3, "height", "width"), (1, 84, "anchors"))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param("", id="missing"),
        pytest.param("{0: 'a'", id="cut-short"),
        pytest.param("{0: 'a'}", id="too-few"),
        pytest.param("{'a': 'x', 'b': 'y'}", id="keys-of-text"),
        pytest.param("__import__('os')", id="code"),
    ],
)
def test_names_that_do_not_fit_become_numbers(names: str) -> None:
    got = _from_ultralytics({"names": names}, SHAPE_640, (1, 6, 8400))
    assert got.names == {0: "a" if "0: 'a'}" in names else "class_0", 1: "class_1"}


@pytest.mark.parametrize(
    "names", ["['a', 'b']", "('a', 'b')", "{'0': 'a', '1': 'b'}", '{"0": "a", "1": "b"}']
)
def test_names_in_every_form_arrive(names: str) -> None:
    assert _from_ultralytics({"names": names}, SHAPE_640, (1, 6, 8400)).names == {0: "a", 1: "b"}


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_another_task_is_refused_by_name(task: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"a\.onnx is a model for the task '{task}'"):
        _from_ultralytics({"task": task})


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        pytest.param((1, 3, 224, 224), [(1, 1000)], id="classifier"),
        pytest.param((1, 3, 640, 640), [(1, 84, 25200)], id="three-anchors-a-cell"),
        pytest.param((1, 3, 64, 96), [(1, 300, 6)], id="nms-inside-small"),
        pytest.param((1, 640, 640, 3), [(1, 84, 8400)], id="channels-last"),
        pytest.param((1, 16), [(1, 84, 8400)], id="no-image"),
        pytest.param((), [(1, 84, 8400)], id="scalar-input"),
        pytest.param(SHAPE_640, [()], id="scalar-output"),
        pytest.param(SHAPE_640, [(1, 4, 8400)], id="no-classes"),
        pytest.param(SHAPE_640, [(1, 116, 8400), (1, 32, 160, 160)], id="segmentation"),
        pytest.param(SHAPE_640, [(1, 25200, 85)], id="yolov5"),
        pytest.param(SHAPE_640, [(1, 300, 6)], id="nms-inside"),
        pytest.param(SHAPE_640, [(1, 300, 84)], id="rt-detr"),
    ],
)
def test_other_graphs_are_refused_with_what_is_needed(shape: tuple[int, ...], outputs: list[Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"a\.onnx is no YOLOv8 detection model.*needed: input"):
        _from_ultralytics({}, shape, *outputs)
