"""The native exporter against Ultralytics' own, on real and on seeded random weights."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.errors import CheckpointError, InputError, UnsupportedModelError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.graph.blocks import UnknownBlockError
from trt_yolo.graph.from_ultralytics import onnx_from_ultralytics
from trt_yolo.graph.head_from_checkpoint import (
    checkpoint_from_file,
    head_from_checkpoint,
    trained_imgsz_and_stride,
)

torch = pytest.importorskip("torch")
pytest.importorskip("ultralytics")
ort = pytest.importorskip("onnxruntime")

BOX_TOLERANCE_PX = 0.01
SCORE_TOLERANCE = 1e-5


def _random_checkpoint(
    yaml: str | dict[str, Any], path: Path, *, half: bool = False, classes: int = 7
) -> Path:
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


# As YOLOv8n, with levels of strides 8 and 16 only.
_TWO_LEVELS = {
    "nc": 7,
    "scales": {"n": [0.33, 0.25, 1024]},
    "backbone": [
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "Conv", [128, 3, 2]],
        [-1, 3, "C2f", [128, True]],
        [-1, 1, "Conv", [256, 3, 2]],
        [-1, 3, "C2f", [256, True]],
        [-1, 1, "Conv", [512, 3, 2]],
        [-1, 1, "SPPF", [512, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 3, "C2f", [256]],
        [-1, 1, "Conv", [256, 3, 2]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 3, "C2f", [512]],
        [[9, 12], 1, "Detect", ["nc"]],
    ],
}
_ONE_LEVEL = {**_TWO_LEVELS, "head": [*_TWO_LEVELS["head"][:-1], [[12], 1, "Detect", ["nc"]]]}


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
        pytest.param("yolov8n.yaml", 320, False, marks=pytest.mark.slow),
        pytest.param("yolov8s.yaml", 256, True, marks=pytest.mark.slow),
        pytest.param("yolov8m.yaml", 192, False, marks=pytest.mark.slow),
        pytest.param("yolov8l.yaml", 160, False, marks=pytest.mark.slow),
        pytest.param("yolov8x.yaml", 160, False, marks=pytest.mark.slow),
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


@pytest.mark.parametrize(
    ("yaml", "strides", "imgsz_hw"),
    [(_TWO_LEVELS, (8, 16), (48, 80)), (_ONE_LEVEL, (16,), (48, 80)), ("yolov8n-p2.yaml", (4, 8, 16, 32), (64, 96)),
     ("yolov8n-p6.yaml", (8, 16, 32, 64), (64, 128))],
    ids=["two", "one", "P2", "P6"],
)  # fmt: skip
def test_any_number_of_levels_equals_ultralytics(
    yaml: str | dict[str, Any], strides: tuple[int, ...], imgsz_hw: tuple[int, int], tmp_path: Path
) -> None:
    path = _random_checkpoint(yaml, tmp_path / "levels.pt")
    checkpoint = checkpoint_from_file(path)
    assert checkpoint.strides == strides
    images = np.random.default_rng(0).random((1, 3, *imgsz_hw), np.float32)
    with torch.no_grad():
        wanted = torch.load(path, weights_only=False)["model"].eval()(torch.from_numpy(images))[0].numpy()
    model = head_from_checkpoint(checkpoint, imgsz_hw=imgsz_hw, batch=BatchRange(1, 1))
    _assert_heads_agree(_run(model, images), wanted)


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
    assert trained_imgsz_and_stride(tmp_path / "p6.pt") == (320, 64)
    for exporter in ("auto", "ultralytics"):
        options = ExportOptions(imgsz_hw=(160, 160), exporter=exporter)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="multiples of 64"):
            export_model(tmp_path / "p6.pt", out=tmp_path, options=options)


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


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights."""
    return _random_checkpoint("yolov8n.yaml", tmp_path_factory.mktemp("sound") / "sound.pt", half=True)


_SAVED: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "no dict": (lambda model: model, {}),
    "EMA only": (lambda model: {"model": None, "ema": model, "optimizer": None}, {}),
    "float32": (lambda model: {"model": model.float()}, {}),
    "DataParallel": (lambda model: {"model": torch.nn.DataParallel(model)}, {}),
    "protocol 5": (lambda model: {"model": model}, {"pickle_protocol": 5}),
    "before 1.6": (lambda model: {"model": model}, {"_use_new_zipfile_serialization": False}),
    "with an optimizer": (
        lambda model: {"model": model, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, {}
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrap", "options"), _SAVED.values(), ids=_SAVED)
def test_every_way_to_save_gives_the_same_head(
    wrap: Callable[[Any], Any], options: dict[str, Any], sound: Path, tmp_path: Path
) -> None:
    model = torch.load(sound, weights_only=False)["model"]
    torch.save(wrap(model), tmp_path / "saved.pt", **options)
    assert _native(tmp_path / "saved.pt", 64).SerializeToString() == _native(sound, 64).SerializeToString()


@pytest.mark.parametrize(
    "blocks", [slice(None), slice(0, 9), slice(22, None)], ids=["all", "some", "the head"]
)
def test_a_fused_checkpoint_gives_the_same_head(blocks: slice, sound: Path, tmp_path: Path) -> None:
    from ultralytics.nn.modules.conv import Conv
    from ultralytics.utils.torch_utils import fuse_conv_and_bn

    model = torch.load(sound, weights_only=False)["model"].float()
    for module in model.model[blocks].modules():
        if isinstance(module, Conv):  # as Ultralytics' fuse does
            module.conv = fuse_conv_and_bn(module.conv, module.bn)
            delattr(module, "bn")
            module.forward = module.forward_fuse
    torch.save({"model": model}, tmp_path / "fused.pt")
    images = np.random.default_rng(3).random((1, 3, 64, 64), np.float32)
    _assert_heads_agree(_run(_native(tmp_path / "fused.pt", 64), images), _run(_native(sound, 64), images))


def test_ultralytics_own_fuse_keeps_the_detections(yolov8n: Path, tmp_path: Path) -> None:
    model = torch.load(yolov8n, weights_only=False)["model"].float().fuse(verbose=False)
    torch.save({"model": model}, tmp_path / "fused.pt")
    images = np.random.default_rng(4).random((1, 3, 64, 64), np.float32)
    _assert_heads_agree(_run(_native(tmp_path / "fused.pt", 64), images), _run(_native(yolov8n, 64), images))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([f"n{index}" for index in range(7)], None),
        ({str(index): f"n{index}" for index in range(7)}, None),
        ([f"n{index}" for index in range(6)], "without a name: class_6"),
        ([f"n{index}" for index in range(8)], "ignored: 'n7'"),
        (7, "without a name: class_0, class_1, class_2 and 4 more"),
    ],
    ids=["list", "texts", "one too few", "one too many", "a number"],
)
def test_names_are_kept_or_what_is_missing_is_said(
    names: Any, wanted: str | None, sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(sound, weights_only=False)
    content["model"].names = names
    torch.save(content, tmp_path / "names.pt")
    got = checkpoint_from_file(tmp_path / "names.pt").names
    kept = 0 if names == 7 else min(7, len(names))
    assert list(got.items()) == [(index, f"{'n' if index < kept else 'class_'}{index}") for index in range(7)]
    assert len(caplog.messages) == (wanted is not None)
    assert wanted is None or wanted in caplog.text


def _grey(model: Any) -> None:
    model.model[0].conv = torch.nn.Conv2d(1, 16, 3, 2, 1, bias=False)


_OTHERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "grey": (_grey, r"takes images of 1 channel; only 3"),
    "groups": (
        lambda model: setattr(model.model[0], "conv", torch.nn.Conv2d(8, 16, 3, 2, 1, groups=2)),
        r"takes images of 8 channels; only 3",
    ),
    "a member more": (
        lambda model: model.model[2].add_module("attention", torch.nn.Identity()),
        r"block 'C2f' \(model\.2\) has a member 'attention'.*a fork",
    ),
    "a member less": (
        lambda model: delattr(model.model[2], "cv2"), r"block 'C2f' \(model\.2\) lacks a member 'cv2'.*a fork"
    ),
    "deep inside": (
        lambda model: model.model[4].m[0].add_module("cv3", torch.nn.Identity()),
        r"'Bottleneck' \(model\.4\.m\.0\) has a member 'cv3'",
    ),
    "head": (
        lambda model: model.model[-1].add_module("cv9", torch.nn.Identity()), r"'Detect' .* has a member 'cv9'"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), _OTHERS.values(), ids=_OTHERS)
def test_what_another_model_is_gets_said(
    edit: Callable[[Any], object], message: str, sound: Path, tmp_path: Path
) -> None:
    path = _edited(Path(shutil.copy(sound, tmp_path / "other.pt")), edit)
    with pytest.raises(UnsupportedModelError, match=message) as error:
        _native(path, 64)
    assert not isinstance(error.value, UnknownBlockError), (
        "then Ultralytics would be asked, and export it wrongly"
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "models.yolo\nDetectionModel",
            r"is a checkpoint of the YOLOv5 repository.*models\.yolo\.DetectionModel",
        ),
        ("models.common\nConv", r"is a checkpoint of the YOLOv5 repository.*yolov5nu"),
        ("yolov6.models.yolo\nModel", "is a checkpoint of the YOLOv6 repository"),
    ],
)
def test_another_repository_is_named(names: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02}X\x05\0\0\0modelc" + names.encode() + b"\n)\x81s.")
    for read in (checkpoint_from_file, trained_imgsz_and_stride):
        with pytest.raises(UnsupportedModelError, match=message):
            read(path)


def test_weights_alone_are_named(sound: Path, tmp_path: Path) -> None:
    state = torch.load(sound, weights_only=False)["model"].state_dict()
    for content in (state, {"model": state}, {"epoch": 1, "state_dict": state}):
        torch.save(content, tmp_path / "state.pt")
        with pytest.raises(
            CheckpointError, match=r"only weights \(a state_dict that begins with model\.0\.conv"
        ):
            checkpoint_from_file(tmp_path / "state.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "is a Git LFS pointer.*git lfs pull",
        ),
        (b"<!doctype html><title>Not found</title>", "is a web page"),
        (b"ftrt" + bytes(28), r"is a TensorRT engine; name it \.engine"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=message):
        checkpoint_from_file(tmp_path / "other.pt")


def test_torchscript_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"script/{name}", b"\x80\x02N.")
    with pytest.raises(UnsupportedModelError, match="is a TorchScript"):
        checkpoint_from_file(tmp_path / "script.pt")


def test_an_end_to_end_model_without_its_other_head_is_refused(tmp_path: Path) -> None:
    def fuse(model: Any) -> None:
        model.model[-1].end2end = True
        model.model[-1].fuse()

    path = _edited(_random_checkpoint("yolo26n.yaml", tmp_path / "end-to-end.pt"), fuse)
    for read in (checkpoint_from_file, trained_imgsz_and_stride):
        with pytest.raises(UnsupportedModelError, match=r"was fused, which removed .*as training saved it"):
            read(path)


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
def test_a_damaged_structure_is_one_error(edit: Callable[[Any], object], sound: Path, tmp_path: Path) -> None:
    path = _edited(Path(shutil.copy(sound, tmp_path / "damaged.pt")), edit)
    with pytest.raises(CheckpointError):
        _native(path, 64)
