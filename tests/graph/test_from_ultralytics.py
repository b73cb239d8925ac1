"""Architectures that only Ultralytics' own exporter knows: end-to-end models give their one-to-many head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from trt_yolo.errors import UnsupportedModelError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.graph import from_ultralytics

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")


def _random_model(yaml: str, *, channels: int = 3) -> Any:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel(yaml, ch=channels, nc=4, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    for module in model.model[-1].cv3:  # scores that are all the same would prove nothing
        torch.nn.init.normal_(module[-1].weight, 0, 0.3)
    model.names = {index: f"thing {index}" for index in range(4)}
    model.args = {"task": "detect", "imgsz": 96}
    model.task = "detect"
    return model.eval()


@pytest.mark.slow
def test_auto_gives_the_one_to_many_head(tmp_path: Path) -> None:
    model = _random_model("yolo26n.yaml")
    torch.save({"model": model, "train_args": {"imgsz": 96}}, tmp_path / "other.pt")
    report = export_model(tmp_path / "other.pt", out=tmp_path, options=ExportOptions(head=True))
    assert (report.manifest.exporter, report.manifest.imgsz_hw) == ("ultralytics", (96, 96))
    assert report.manifest.names == model.names
    images = np.random.default_rng(0).random((1, 3, 96, 96), np.float32)
    model.end2end = False
    with torch.no_grad():
        wanted = model(torch.from_numpy(images))[0].numpy()
    session = ort.InferenceSession(report.artifacts[0].path, providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": images})[0]
    assert np.ptp(wanted[:, 4:]) > 1e-3
    np.testing.assert_allclose(got[:, :4], wanted[:, :4], atol=0.01, rtol=0)
    np.testing.assert_allclose(got[:, 4:], wanted[:, 4:], atol=1e-5, rtol=0)


def test_an_export_that_is_no_head_names_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": _random_model("yolov8n.yaml")}, tmp_path / "odd.pt")

    def picked(checkpoint: Path, target: Path, **_: object) -> None:
        rows = onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [1, 300, 6])
        images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 96, 96])
        shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [3], [1, 300, 6])
        node = onnx.helper.make_node("ConstantOfShape", ["shape"], ["rows"])
        graph = onnx.helper.make_graph([node], "odd", [images], [rows], [shape])
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9),
            target,
        )

    monkeypatch.setattr(from_ultralytics, "onnx_from_ultralytics", picked)
    with pytest.raises(UnsupportedModelError) as error:
        export_model(tmp_path / "odd.pt", out=tmp_path / "out", options=ExportOptions(exporter="ultralytics"))
    assert str(error.value).startswith(f"Ultralytics' export of {tmp_path / 'odd.pt'} is no YOLOv8 detection")
    assert "/trt-yolo-" not in str(error.value)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for pictures of one channel."""
    path = tmp_path_factory.mktemp("grey") / "grey.pt"
    torch.save({"model": _random_model("yolov8n.yaml", channels=1)}, path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": True},
        {"check": False},
        {"exporter": "ultralytics"},
        {"exporter": "native"},
        {"precision": "fp16"},
    ],
    ids=str,
)
def test_grey_pictures_are_refused_before_anything_is_written(
    options: dict[str, Any], grey: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=r"grey\.pt takes images of 1 channel; only 3"):
        export_model(grey, out=tmp_path / "out", options=ExportOptions(**options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("head", "said"),
    [("RTDETRDecoder", "an RT-DETR"), ("Segment26", "a segmentation"), ("OBB26", "an oriented-box"), ("Pose", "a pose"),
     ("Classify", "a classification")],
)  # fmt: skip
@pytest.mark.parametrize("exporter", ["auto", "ultralytics"])
def test_another_task_is_refused_by_name(
    head: str, said: str, exporter: str, grey: Path, tmp_path: Path
) -> None:
    from ultralytics.nn.modules import head as heads

    model = torch.load(grey, weights_only=False)["model"]
    model.model[-1].__class__ = getattr(heads, head)
    torch.save({"model": model}, tmp_path / "other.pt")
    with pytest.raises(UnsupportedModelError, match=rf"other\.pt is {said} model; .*such as yolov8n\.pt"):
        export_model(tmp_path / "other.pt", out=tmp_path / "out", options=ExportOptions(exporter=exporter))
    assert not (tmp_path / "out").exists()
