"""`export_model`: what it writes, what it calls it, and that a failure leaves nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import trt_yolo
from tests.assertions import assert_detections_match
from trt_yolo.artifacts.manifest import METADATA_KEY, manifest_from_json
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ExportError, InputError, UnsupportedModelError
from trt_yolo.export import onnx_from_model
from trt_yolo.export.onnx_from_model import export_model, export_to_cache
from trt_yolo.export.options import ExportOptions


def _input_shape(path: Path) -> list[int | str]:
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


@pytest.mark.parametrize(
    ("options", "name", "shape"),
    [
        (ExportOptions(), "demo.onnx", [1, 256, 256, 3]),
        (ExportOptions(batch=BatchRange(8, 8)), "demo-b8.onnx", [8, 256, 256, 3]),
        (ExportOptions(batch=BatchRange(1, 4)), "demo-b1-4.onnx", ["batch", 256, 256, 3]),
        (ExportOptions(imgsz_hw=(128, 128)), "demo-128.onnx", [1, 128, 128, 3]),
        (ExportOptions(imgsz_hw=(96, 160), check=False), "demo-96x160.onnx", [1, 96, 160, 3]),
        (ExportOptions(imgsz_hw=(32, 32), opset=13), "demo-32.onnx", [1, 32, 32, 3]),
        (ExportOptions(rows=64), "demo-r64.onnx", [1, 256, 256, 3]),
        (ExportOptions(head=True, batch=BatchRange(2, 2)), "demo-b2-head.onnx", [2, 3, 256, 256]),
    ],
)
def test_writes_graph_and_manifest(
    options: ExportOptions, name: str, shape: list[int | str], tmp_path: Path
) -> None:
    report = export_model(demo_checkpoint(), out=tmp_path / "new" / "folder", options=options)
    (artifact,) = report.artifacts
    assert artifact.path == tmp_path / "new" / "folder" / name
    assert artifact.bytes == artifact.path.stat().st_size
    assert (artifact.format, artifact.precision) == ("onnx", "fp32")
    assert _input_shape(artifact.path) == shape
    beside = artifact.path.with_name(name + ".json").read_text()
    inside = {entry.key: entry.value for entry in onnx.load(artifact.path).metadata_props}
    assert json.loads(beside) == json.loads(inside[METADATA_KEY])
    assert manifest_from_json(beside, origin="test") == report.manifest
    assert (report.parity is not None) == (options.check and not options.head)
    assert len(list(artifact.path.parent.iterdir())) == 2, "nothing else is left"


def test_check_uses_the_images_given(tmp_path: Path, val_images: list[Path]) -> None:
    report = export_model(demo_checkpoint(), out=tmp_path, options=ExportOptions(check_images=val_images[:3]))
    assert report.parity is not None
    assert report.parity.images == 3
    assert report.parity.detections > 50


def test_a_wrong_deploy_graph_fails_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = onnx_from_model.deploy_from_head

    def wrong(head: onnx.ModelProto, manifest: onnx_from_model.Manifest) -> onnx.ModelProto:
        model = right(head, manifest)
        tensor = next(one for one in model.graph.initializer if one.name.endswith(".strides"))
        array = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return model

    monkeypatch.setattr(onnx_from_model, "deploy_from_head", wrong)
    with pytest.raises(ExportError, match="does not find what the head graph finds"):
        export_model(demo_checkpoint(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_earlier_artifact_survives_a_failed_export(tmp_path: Path) -> None:
    first = export_model(demo_checkpoint(), out=tmp_path).artifacts[0].path
    before = first.read_bytes()
    broken = tmp_path / "demo.pt"
    broken.write_bytes(demo_checkpoint().read_bytes()[:100_000])
    with pytest.raises(InputError):
        export_model(broken, out=tmp_path)
    assert first.read_bytes() == before


def test_a_head_graph_becomes_the_same_deploy_graph(demo_head_onnx: Path, tmp_path: Path) -> None:
    report = export_model(demo_head_onnx, out=tmp_path)
    assert report.artifacts[0].path.name == "demo.onnx"
    assert report.manifest.exporter == "given"
    direct = export_model(demo_checkpoint(), out=tmp_path / "direct").artifacts[0].path
    images = [scene(index).image_bgr for index in range(4)]
    with trt_yolo.load(report.artifacts[0].path) as given, trt_yolo.load(direct) as native:
        for got, wanted in zip(given(images), native(images), strict=True):
            assert_detections_match(got, wanted)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (ExportOptions(), ["batch", 256, 256, 3]),
        (ExportOptions(batch=BatchRange(2, 2), imgsz_hw=(128, 192)), [2, 128, 192, 3]),
    ],
)
def test_a_dynamic_head_graph_is_given_fixed_sizes(
    ultralytics_demo_onnx: Path, options: ExportOptions, shape: list[int | str], tmp_path: Path
) -> None:
    batch, _, *sides = _input_shape(ultralytics_demo_onnx)
    assert all(isinstance(side, str) for side in (batch, *sides))
    report = export_model(ultralytics_demo_onnx, out=tmp_path, options=options)
    assert _input_shape(report.artifacts[0].path) == shape
    assert report.parity is not None
    assert report.parity.holds


@pytest.mark.slow
def test_ultralytics_exporter_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    options = ExportOptions(exporter="ultralytics", imgsz_hw=(256, 256))
    ours = export_model(demo_checkpoint(), out=tmp_path / "native").artifacts[0].path
    theirs = export_model(demo_checkpoint(), out=tmp_path / "ultralytics", options=options).artifacts[0].path
    assert sorted(path.name for path in theirs.parent.iterdir()) == [theirs.name, theirs.name + ".json"]
    images = [scene(index).image_bgr for index in range(8)]
    with trt_yolo.load(ours) as native, trt_yolo.load(theirs) as reference:
        results = list(zip(native(images), reference(images), strict=True))
    assert sum(len(wanted) for _, wanted in results) > 20
    for got, wanted in results:
        assert_detections_match(got, wanted)


@pytest.mark.slow
def test_auto_falls_back_to_ultralytics_for_other_architectures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch")
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=3, verbose=False)
    model.args = {"task": "detect", "imgsz": 640}
    torch.save({"model": model, "train_args": {}}, tmp_path / "eleven.pt")
    options = ExportOptions(imgsz_hw=(128, 128))
    report = export_model(tmp_path / "eleven.pt", out=tmp_path / "out", options=options)
    assert report.manifest.exporter == "ultralytics"
    assert "C3k2" in caplog.text
    with pytest.raises(UnsupportedModelError, match="C3k2"):
        export_model(
            tmp_path / "eleven.pt",
            out=tmp_path / "out2",
            options=ExportOptions(exporter="native", imgsz_hw=(128, 128)),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(imgsz_hw=(320, 320)), r"fixed at 256x256 pixels, asked for 320x320"),
        (ExportOptions(batch=BatchRange(4, 4)), r"fixed at a batch of 1, asked for 4"),
        (ExportOptions(opset=17), r"opset 19, asked for 17"),
        (ExportOptions(exporter="native"), r"converts \.pt files"),
    ],
)
def test_options_that_do_not_fit_a_given_graph(
    demo_head_onnx: Path, options: ExportOptions, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export_model(demo_head_onnx, out=tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_a_deploy_graph_is_not_exported_again(demo_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a deploy graph already"):
        export_model(demo_onnx, out=tmp_path)


def test_cache_is_filled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path))
    first = export_to_cache(demo_checkpoint())
    written = first.stat().st_mtime_ns
    assert export_to_cache(demo_checkpoint()) == first
    assert first.stat().st_mtime_ns == written
    assert first.is_relative_to(tmp_path)


def test_ultralytics_runs_our_head_graph(demo_head_onnx: Path, demo_onnx: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    reference = ultralytics.YOLO(str(demo_head_onnx), task="detect")
    images = [scene(index).image_bgr for index in range(4)]
    with trt_yolo.load(demo_onnx) as model:
        for image, got in zip(images, model(images), strict=True):
            boxes = reference.predict(image, imgsz=256, conf=0.25, iou=0.7, device="cpu", verbose=False)[
                0
            ].boxes
            wanted = trt_yolo.Detections(
                xyxy=boxes.xyxy.numpy(),
                confidence=boxes.conf.numpy(),
                class_id=boxes.cls.numpy().astype(np.int64),
            )
            assert len(wanted) > 0
            assert_detections_match(got, wanted)


@pytest.mark.parametrize(
    "options", [ExportOptions(check=False), ExportOptions(head=True)], ids=["deploy", "head"]
)
def test_a_head_graph_is_not_written_over(
    options: ExportOptions, demo_head_onnx: Path, tmp_path: Path
) -> None:
    source = tmp_path / ("mine-head.onnx" if options.head else "mine.onnx")
    shutil.copy(demo_head_onnx, source)
    with pytest.raises(InputError, match="is an input of this command; give another name or folder"):
        export_model(source, out=tmp_path, options=options)
    assert source.read_bytes() == demo_head_onnx.read_bytes()
    assert list(tmp_path.iterdir()) == [source]
