"""The native exporter against Ultralytics' own, on real and on seeded random weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trt_yolo.errors import CheckpointError, InputError, UnsupportedModelError
from trt_yolo.export.blocks import UnknownBlockError
from trt_yolo.export.from_ultralytics import onnx_from_ultralytics
from trt_yolo.export.head_from_checkpoint import checkpoint_from_file, head_from_checkpoint
from trt_yolo.shapes import BatchRange

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")
ort = pytest.importorskip("onnxruntime")

BOX_TOLERANCE_PX = 0.01
SCORE_TOLERANCE = 1e-5


def _random_checkpoint(yaml: str, path: Path, *, half: bool = False, classes: int = 7) -> Path:
    """A checkpoint as Ultralytics saves one, with seeded random weights and batch-norm statistics."""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(len(yaml))
    model = DetectionModel(yaml, nc=classes, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    model.names = {index: f"thing {index}" for index in range(classes)}
    model.args = {"task": "detect", "imgsz": 320}
    model = model.half() if half else model
    torch.save({"model": model, "ema": None, "train_args": {"imgsz": 320}, "version": "8.4"}, path)
    return path


def _native(path: Path, side: int, batch: BatchRange = BatchRange(1, 1)) -> onnx.ModelProto:  # noqa: B008
    model = head_from_checkpoint(checkpoint_from_file(path), imgsz_hw=(side, side), batch=batch)
    onnx.checker.check_model(model, full_check=True)
    return model


def _run(model: onnx.ModelProto | Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def _assert_heads_agree(got: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> None:
    assert got.shape == wanted.shape
    assert np.ptp(wanted[:, 4:]) > 1e-4, "scores that are all the same would prove nothing"
    np.testing.assert_allclose(got[:, :4], wanted[:, :4], atol=BOX_TOLERANCE_PX, rtol=0)
    np.testing.assert_allclose(got[:, 4:], wanted[:, 4:], atol=SCORE_TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("yaml", "side", "half"),
    [
        ("yolov8n.yaml", 320, False),
        ("yolov8s.yaml", 256, True),
        ("yolov8m.yaml", 192, False),
        ("yolov8l.yaml", 160, False),
        ("yolov8x.yaml", 160, False),
        ("yolov8n-p2.yaml", 160, False),
        ("yolov8n-p6.yaml", 192, False),
    ],
)
def test_equals_ultralytics_on_random_weights(yaml: str, side: int, half: bool, tmp_path: Path) -> None:
    path = _random_checkpoint(yaml, tmp_path / "random.pt", half=half)
    onnx_from_ultralytics(
        path,
        tmp_path / "reference.onnx",
        imgsz_hw=(side, side),
        batch=BatchRange(1, 1),
        opset=19,
        verbose=False,
    )
    images = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    _assert_heads_agree(_run(_native(path, side), images), _run(tmp_path / "reference.onnx", images))


def test_equals_ultralytics_on_yolov8n(yolov8n: Path, val_images: list[Path], tmp_path: Path) -> None:
    import cv2

    onnx_from_ultralytics(
        yolov8n,
        tmp_path / "reference.onnx",
        imgsz_hw=(640, 640),
        batch=BatchRange(1, 1),
        opset=19,
        verbose=False,
    )
    native = _native(yolov8n, 640)
    for path in val_images[:4]:
        image = cv2.resize(cv2.imread(str(path)), (640, 640))
        blob = np.ascontiguousarray(image[None, ..., ::-1].transpose(0, 3, 1, 2), np.float32) / 255
        _assert_heads_agree(_run(native, blob), _run(tmp_path / "reference.onnx", blob))


def test_reads_both_generations_of_module_paths(tmp_path: Path) -> None:
    new = _random_checkpoint("yolov8n.yaml", tmp_path / "new.pt")
    old = tmp_path / "old.pt"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                assert b"cultralytics.nn.modules.conv\n" in data
                for module in (b"conv", b"block", b"head"):
                    data = data.replace(
                        b"cultralytics.nn.modules." + module + b"\n", b"cultralytics.nn.modules\n"
                    )
                assert b"cultralytics.nn.modules.conv\n" not in data
            target.writestr(info, data)
    assert _native(old, 160).SerializeToString() == _native(new, 160).SerializeToString()


def test_prefers_the_ema(tmp_path: Path) -> None:
    path = _random_checkpoint("yolov8n.yaml", tmp_path / "ema.pt")
    content = torch.load(path, weights_only=False)
    other = torch.load(
        _random_checkpoint("yolov8n.yaml", tmp_path / "other.pt", classes=3), weights_only=False
    )
    torch.save({**content, "ema": other["model"]}, path)
    assert len(checkpoint_from_file(path).names) == 3


def test_takes_names_strides_and_size_from_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = checkpoint_from_file(_random_checkpoint("yolov8n-p6.yaml", tmp_path / "p6.pt"))
    assert checkpoint.names == {index: f"thing {index}" for index in range(7)}
    assert checkpoint.strides == (8, 16, 32, 64)
    assert checkpoint.imgsz == 320
    metadata = {
        entry.key: entry.value
        for entry in head_from_checkpoint(
            checkpoint, imgsz_hw=(128, 192), batch=BatchRange(2, 2)
        ).metadata_props
    }
    assert metadata == {
        "task": "detect",
        "stride": "64",
        "batch": "2",
        "imgsz": "[128, 192]",
        "names": str(checkpoint.names),
    }


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_every_opset_gives_the_same_head(yolov8n: Path, opset: int) -> None:
    checkpoint = checkpoint_from_file(yolov8n)
    images = np.random.default_rng(1).random((1, 3, 64, 96), np.float32)
    outputs = [
        _run(
            head_from_checkpoint(checkpoint, imgsz_hw=(64, 96), batch=BatchRange(1, 1), opset=number), images
        )
        for number in (19, opset)
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-4)


def test_dynamic_batch_equals_one_by_one(yolov8n: Path) -> None:
    images = np.random.default_rng(2).random((3, 3, 64, 64), np.float32)
    model = _native(yolov8n, 64, BatchRange(1, 8))
    together = _run(model, images)
    alone = np.concatenate([_run(model, image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_size_must_fit_the_largest_stride(tmp_path: Path) -> None:
    checkpoint = checkpoint_from_file(_random_checkpoint("yolov8n-p6.yaml", tmp_path / "p6.pt"))
    with pytest.raises(InputError, match=r"160x160 .* multiples of 64; try 192x192"):
        head_from_checkpoint(checkpoint, imgsz_hw=(160, 160), batch=BatchRange(1, 1))


@pytest.mark.parametrize(
    ("yaml", "error", "message"),
    [
        ("yolov8n-ghost.yaml", UnknownBlockError, r"'GhostConv' .*--exporter ultralytics"),
        ("yolo11n.yaml", UnknownBlockError, r"'C3k2' .*--exporter ultralytics"),
        ("yolo26n.yaml", UnknownBlockError, r"'Detect' in its end-to-end form"),
    ],
)
def test_names_the_block_it_does_not_know(
    yaml: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = _random_checkpoint(yaml, tmp_path / "other.pt")
    with pytest.raises(error, match=message):
        _native(path, 64)


def test_refuses_another_task(shared: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="segmentation model"):
        checkpoint_from_file(shared / "weights" / "yolov8n-seg.pt")


def test_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    path = _random_checkpoint("yolov8n.yaml", tmp_path / "nan.pt")
    content = torch.load(path, weights_only=False)
    content["model"].model[0].conv.weight.data[0, 0, 0, 0] = float("nan")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="finite"):
        _native(path, 64)


@pytest.mark.parametrize(
    "content", [{"model": None}, {"epoch": 3}, [1, 2], {"model": {"0.weight": 1}}, None, 7], ids=str
)
def test_refuses_what_holds_no_model(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="holds no YOLO model"):
        checkpoint_from_file(path)


def _edited(path: Path, edit: Callable[[Any], object]) -> Path:
    """The checkpoint after an edit of its model."""
    content = torch.load(path, weights_only=False)
    edit(content["model"])
    torch.save(content, path)
    return path


def _hold_itself(model: Any) -> None:
    """Sequentials of ten times the same child, twelve deep: a trillion blocks in a small file."""
    child = torch.nn.Identity()
    for _ in range(12):
        child = torch.nn.Sequential(*[child] * 10)
        child.f, child.i = -1, 0
    model.model[0] = child


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: setattr(model.model[1], "f", "everywhere"),
        lambda model: setattr(model.model[2], "c", "many"),
        lambda model: setattr(model.model[0].conv, "stride", None),
        lambda model: setattr(model.model[-1], "stride", torch.zeros(3)),
        lambda model: setattr(model.model[-1], "nc", [1, 2]),
        lambda model: setattr(model.model[-1], "cv2", torch.nn.ModuleList()),
        _hold_itself,
    ],
)
def test_a_damaged_structure_is_one_error(edit: Callable[[Any], object], tmp_path: Path) -> None:
    path = _edited(_random_checkpoint("yolov8n.yaml", tmp_path / "damaged.pt"), edit)
    with pytest.raises(CheckpointError):
        _native(path, 64)
